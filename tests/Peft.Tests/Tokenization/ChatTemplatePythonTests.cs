using Peft.Tokenization.ChatTemplates;

namespace Peft.Tests.Tokenization;

/// <summary>What jinja2 3.1.6 gave for templates of this kind, compiled as transformers 5 does.</summary>
public class ChatTemplatePythonTests
{
    private static readonly ChatMessage[] s_messages = [new("user", "Hi")];

    [Theory]
    [InlineData("{% set d = {'a': 1, 'B': 2} %}{{ d.keys() }} {{ d.values() }} {{ d.items() }} {{ d.keys()[0] is defined }}", "dict_keys(['a', 'B']) dict_values([1, 2]) dict_items([('a', 1), ('B', 2)]) False")]
    [InlineData("{% macro m(x, y=x, z=w, w=1) %}{{ x }}{{ y }}{{ z }}{{ w }}{% endmacro %}{{ m(1) }} {{ m(1, w=5) }}", "111 1155")]
    [InlineData("{% macro m(x) %}{{ x }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, y=3) }} {{ m }} {{ m.arguments }}", "1(2,){'y': 3} <Macro 'm'> ('x',)")]
    [InlineData("{% macro m() %}{{ kwargs }}{% endmacro %}{% call m(a=1) %}x{% endcall %}", "{'a': 1, 'caller': <Macro anonymous>}")]
    [InlineData("{% for x in [1] %}{% break %}{% else %}none{% endfor %}", "none")]
    [InlineData("{{ none | map('upper') | list }} {{ 0 | select | list }} {{ 5 | unique is defined }}", "[] [] True")]
    [InlineData("{{ [1, 2, 3] | batch(0) | list }} {{ [1, 2] | batch(-1) | list }} {{ [] | slice(-1) | list }}", "[[], [1, 2, 3]] [[1, 2]] []")]
    [InlineData("{{ [{'a': 1}, {'a': 2}] | unique(attribute='zz') | list }}", "[{'a': 1}]")]
    [InlineData("{{ {(1, 'x'): 'tuple'}[(1, 'x')] }} {{ {}[[]] is defined }} {{ {}[missing] is defined }} {{ 'abc'[missing] is defined }}", "tuple False False False")]
    [InlineData("{{ 1.0 // 0.1 }} {{ -7.5 // 2 }} {{ -0.0 % 3 }} {{ 0 % -1.5 }} {{ 1.0 is odd }} {{ 9007199254740993 == 9007199254740992.0 }}", "9.0 -4.0 0.0 -0.0 True False")]
    [InlineData("{{ 10**400 / 10**399 }} {{ 10**400 > 1e300 }} {{ 9007199254740993 / 1 }} {{ 25 | round(-1) }} {{ 35 | round(-1) }}", "10.0 True 9007199254740992.0 20 40")]
    [InlineData("{{ 'a' % [] }}{{ '%s' % missing }}|{{ '%c' % 97 }}|{{ '%*d' % (5, 3) }}|{{ '%.3d' % 7 }}", "a|a|    3|007")]
    [InlineData("{{ '{:05}'.format('a') }} {{ '{:,}'.format(true) }} {{ '{:_x}'.format(1048576) }}", "a0000 1 10_0000")]
    [InlineData("{{ 'abc'.find('', 9) }} {{ 'abcabc'.rfind('c', -3, -1) }} {{ 'abc'.startswith('', 9) }} {{ 'aXbX'.count('X', 2) }}", "-1 -1 False 1")]
    [InlineData("{{ 'ǆ ß ŉ აბ'.title() }} {{ 'ßa' | capitalize }} {{ 'ß' | title }} {{ 'İẞ'.upper() }} {{ 'ª²'.isdigit() }} {{ '①'.isdigit() }}", "ǅ Ss ʼN აბ Ssa SS İẞ False True")]
    [InlineData("{{ true.real }} {{ (1.5).imag }} {{ [1, 2] | truncate }} {{ {'b': 1, 'a': {'d': 1, 'c': 2}} | pprint }}", "1 0.0 [1, 2] {'a': {'c': 2, 'd': 1}, 'b': 1}")]
    [InlineData("{{ missing is callable }} {{ 1e100 | filesizeformat }} {{ -0.5 | filesizeformat }}", "True 10000000000000000470601344959054695891559601407866630764278709534898249531392.0 YB 0 Bytes")]
    [InlineData("{{ 'a long-word b' | wordwrap(3) }}|{{ 'ab cdefg' | wordwrap(3, false) }}", "a l\nong\n-wo\nrd\nb|ab\ncdefg")]
    [InlineData("{{ 'a<!-- <b> -->c<d' | striptags }} {{ '' | unique | reverse }}", "ac<d []")]
    public void RendersWhatPythonRenders(string template, string expected) => Assert.Equal(expected, Render(template));

    [Theory]
    [InlineData("{% macro m() %}{% endmacro %}{{ m(1) }}")]
    [InlineData("{% macro m() %}{% endmacro %}{{ m(x=1) }}")]
    [InlineData("{% macro m() %}{% endmacro %}{% call m() %}{% endcall %}")]
    [InlineData("{% set x = 5 %}{{ x[1:] }}")]
    [InlineData("{% set x = {} %}{{ x[:1] }}")]
    [InlineData("{{ 5 | indent }}")]
    [InlineData("{{ 5 | wordwrap }}")]
    [InlineData("{{ 5 | truncate }}")]
    [InlineData("{% filter length %}x{% endfilter %}")]
    [InlineData("{{ missing | int }}")]
    [InlineData("{{ missing | float }}")]
    [InlineData("{{ '{:x}'.format([]) }}")]
    [InlineData("{{ '{:d}'.format('a') }}")]
    [InlineData("{{ '{:.2d}'.format(5) }}")]
    [InlineData("{{ '%c' % 'ab' }}")]
    [InlineData("{{ '%x' % 1.5 }}")]
    [InlineData("{{ '%y' % 1 }}")]
    [InlineData("{{ [1] | unique | last }}")]
    [InlineData("{{ {}.keys() | tojson }}")]
    [InlineData("{{ [[1]] | urlencode }}")]
    [InlineData("{{ 0.0 ** -1 }}")]
    [InlineData("{{ (10 ** 400) * 1.0 }}")]
    [InlineData("{{ (1e308 * 10) | int }}")]
    [InlineData("{{ {1: 2} | xmlattr }}")]
    public void RefusesWhatPythonRefuses(string template) => Assert.StartsWith("ChatTemplate", Assert.Throws<TemplateException>(() => Render(template)).ErrorId, StringComparison.Ordinal);

    [Theory]
    [InlineData("{% set ns = namespace(l=[1]) %}{% for i in range(99999) %}{% set ns.l = ns.l | reject('none') %}{% endfor %}{{ ns.l | list }}")]
    [InlineData("{% set ns = namespace(l=(1,)) %}{% for i in range(99999) %}{% set ns.l = (ns.l,) %}{% endfor %}{{ {ns.l: 1} }}")]
    [InlineData("{% set ns = namespace(l=(1,)) %}{% for i in range(99) %}{% set ns.l = (ns.l, ns.l) %}{% endfor %}{{ {ns.l: 1} }}")]
    public void NestedValuesEndInALimit(string template) => Assert.Equal("ChatTemplateLimit", Assert.Throws<TemplateException>(() => Render(template)).ErrorId);

    [Theory]
    [InlineData("{{ ('a' * 1000000) | wordwrap(1) | length }}", "1999999")]
    [InlineData("{{ ('<' * 1000000) | striptags | length }}", "1000000")]
    [InlineData("{{ ('<!--' * 250000) | striptags | length }}", "1000000")]
    public void LongTextsTakeTimeInProportion(string template, string expected)
    {
        var watch = System.Diagnostics.Stopwatch.StartNew();

        Assert.Equal(expected, Render(template));
        Assert.True(watch.Elapsed < TimeSpan.FromSeconds(9), $"It took {watch.Elapsed}, where time grows with the square of the length.");
    }

    private static string Render(string template) => ChatTemplate.Parse(template).Render(s_messages, new ChatTemplateOptions(), new Dictionary<string, string>()).Text;
}
