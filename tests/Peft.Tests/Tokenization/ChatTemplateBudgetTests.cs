using System.Diagnostics;
using Peft.Tokenization.ChatTemplates;

namespace Peft.Tests.Tokenization;

public class ChatTemplateBudgetTests
{
    private static readonly ChatMessage[] s_messages = [new("user", "Hi")];

    [Theory]
    [InlineData("{{ ('a ' * 8000000).split(none, 1000000) | length }}")]
    [InlineData("{{ ('a ' * 8000000).rsplit(none, 1000000) | length }}")]
    [InlineData("{{ ('a' * 8000000).find('a' * 4000000 ~ 'b' ~ 'a') }}")]
    [InlineData("{{ ('a' * 8000000).rfind('a' ~ 'b' ~ 'a' * 4000000) }}")]
    [InlineData("{{ ('a' * 8000000).count('a' * 4000000 ~ 'b' ~ 'a') }}")]
    [InlineData("{{ ('a' * 8000000).replace('a' * 4000000 ~ 'b' ~ 'a', '') | length }}")]
    [InlineData("{{ ('a' * 4000000 ~ 'b' ~ 'a') in 'a' * 8000000 }}")]
    [InlineData("{{ ('a' * 8000000).partition('a' * 4000000 ~ 'b' ~ 'a')[0] | length }}")]
    [InlineData("{{ ('a' * 8000000).rsplit('a' ~ 'b' ~ 'a' * 4000000) | length }}")]
    [InlineData("{{ ('%' ~ '*' * 1000000 ~ 'd') % (range(100000) | list) }}")]
    public void OneMethodTakesTimeByLength(string template)
    {
        var clock = Stopwatch.StartNew();
        Record(template);
        Assert.True(clock.Elapsed < TimeSpan.FromSeconds(8), $"{clock.Elapsed}");
    }

    [Theory]
    [InlineData("{% set x = 'a' * 4000000 %}{% for i in range(100000) %}{% if x.startswith(x) %}{% endif %}{% endfor %}")]
    [InlineData("{% set x = 'a' * 4000000 %}{% for i in range(100000) %}{% if x.strip() %}{% endif %}{% endfor %}")]
    [InlineData("{% set x = 'a' * 4000000 %}{% for i in range(100000) %}{% if x.isalpha() %}{% endif %}{% endfor %}")]
    [InlineData("{% set x = 'a' * 4000000 %}{% for i in range(100000) %}{% if x | wordcount %}{% endif %}{% endfor %}")]
    [InlineData("{% set x = 'a' * 4000000 %}{% for i in range(100000) %}{% if x is lower %}{% endif %}{% endfor %}")]
    [InlineData("{% set x = 'a' * 4000000 %}{% set y = 'a' * 4000000 %}{% for i in range(100000) %}{% if x == y %}{% endif %}{% endfor %}")]
    [InlineData("{% set x = 'a' * 4000000 %}{% for i in range(100000) %}{% if 'b' in x %}{% endif %}{% endfor %}")]
    [InlineData("{% set x = 'a' * 4000000 %}{% for i in range(100000) %}{% if x[i] %}{% endif %}{% endfor %}")]
    [InlineData("{% set x = 'a' * 4000000 %}{% for i in range(100000) %}{% if x[1:] %}{% endif %}{% endfor %}")]
    [InlineData("{% set x = 'a' * 4000000 %}{% for i in range(100000) %}{% set y = x ~ i %}{% endfor %}")]
    [InlineData("{% set x = 'a' * 4000000 %}{% for i in range(100000) %}{% set y = [x] | tojson %}{% endfor %}")]
    [InlineData("{% set x = 'a' * 4000000 %}{% for i in range(100000) %}{% set y = [x] | string %}{% endfor %}")]
    [InlineData("{{ ('a' * 8000000).startswith(('a' * 899999 ~ 'b',) * 100000) }}")]
    [InlineData("{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x, range(100000) | list] %}{% endfor %}")]
    [InlineData("{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x, 'a' * 1000000] %}{% endfor %}")]
    [InlineData("{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x, 2 ** 60000 + i] %}{% endfor %}")]
    [InlineData("{% set ns = namespace(x='<' | escape) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}")]
    [InlineData("{{ {'a': [1]} | tojson(indent='a' * 10000000) }}")]
    [InlineData("{{ [1, 2, 3] | tojson(separators=('a' * 10000000, 'b')) }}")]
    [InlineData("{{ ('a ' * 1000000) | wordwrap(1, true, 'b' * 10000) }}")]
    [InlineData("{{ dict([('a', 'a' * 9000000), ('b', 'b' * 9000000)]) | xmlattr }}")]
    [InlineData("{{ [('a', 'a' * 9000000), ('b', 'b' * 9000000)] | urlencode }}")]
    [InlineData("{% set x = 'a' * 4000000 %}{% for i in range(1000) %}{% if {x: 1} %}{% endif %}{% endfor %}")]
    [InlineData("{% set x = dict.fromkeys(range(100000) | map('string')) %}{% macro m(a, b, c) %}{{ kwargs | length }}{% endmacro %}{% for i in range(100000) %}{{ m(**x) }}{% endfor %}")]
    public void OneBudgetHoldsForTheWholeRendering(string template)
    {
        var clock = Stopwatch.StartNew();
        var before = GC.GetTotalMemory(forceFullCollection: true);
        var error = Assert.IsType<TemplateException>(Record(template));
        Assert.Equal("ChatTemplateLimit", error.ErrorId);
        Assert.True(clock.Elapsed < TimeSpan.FromSeconds(11), $"{clock.Elapsed}");
        Assert.True(GC.GetTotalMemory(forceFullCollection: false) - before < 3L << 30);
    }

    [Theory]
    [InlineData("' a  b c '.split(none, 1)", "['a', 'b c ']")]
    [InlineData("' a  b c '.rsplit(none, 1)", "[' a  b', 'c']")]
    [InlineData("' a  b '.split(none, 5)", "['a', 'b']")]
    [InlineData("' a  b '.split(none, 2)", "['a', 'b']")]
    [InlineData("' a  b '.rsplit(none, 2)", "['a', 'b']")]
    [InlineData("' a '.split(none, 0)", "['a ']")]
    [InlineData("' a '.rsplit(none, 0)", "[' a']")]
    [InlineData("'   '.rsplit(none, 0)", "[]")]
    [InlineData("'   '.split()", "[]")]
    [InlineData("''.split()", "[]")]
    [InlineData("' a b'.split()", "['a', 'b']")]
    [InlineData("'a,b,,c'.split(',', 2)", "['a', 'b', ',c']")]
    [InlineData("'a,b,,c'.rsplit(',', 2)", "['a,b', '', 'c']")]
    [InlineData("'aaaa'.rsplit('aaa')", "['a', '']")]
    [InlineData("''.split(',')", "['']")]
    [InlineData("'abcabc'.replace('b', 'x', 1)", "axcabc")]
    [InlineData("'ab'.replace('', '-')", "-a-b-")]
    [InlineData("'ab'.replace('', '-', 2)", "-a-b")]
    [InlineData("('ab' * 40 ~ 'c').find('ab' * 39 ~ 'c')", "2")]
    [InlineData("('ab' * 40 ~ 'c' ~ 'ab' * 40).rfind('ab' * 39)", "83")]
    [InlineData("('ab' * 80).count('ab' * 20)", "4")]
    [InlineData("('a' * 40 ~ 'b' ~ 'a' * 40).replace('a' * 40, 'x')", "xbx")]
    public void SplittingAndSearchingGiveWhatPythonGives(string expression, string expected) =>
        Assert.Equal(expected, ChatTemplate.Parse("{{ " + expression + " }}").Render(s_messages, new ChatTemplateOptions(), new Dictionary<string, string>()).Text);

    [Fact]
    public async Task ARenderingEndsWhenItIsCancelled()
    {
        var template = ChatTemplate.Parse("{% for i in range(100000) %}{% for j in range(100) %}{% if [3, 2, 1] | sort %}{% endif %}{% endfor %}{% endfor %}");
        using var source = new CancellationTokenSource();
        var rendering = Task.Run(() => template.Render(s_messages, new ChatTemplateOptions(), new Dictionary<string, string>(), source.Token));
        await source.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => rendering.WaitAsync(TimeSpan.FromSeconds(5)));
    }

    private static Exception? Record(string template) => Xunit.Record.Exception(() =>
        ChatTemplate.Parse(template).Render(s_messages, new ChatTemplateOptions(), new Dictionary<string, string>()));
}
