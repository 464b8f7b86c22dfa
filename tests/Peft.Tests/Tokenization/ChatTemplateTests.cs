using Peft.Tokenization.ChatTemplates;

namespace Peft.Tests.Tokenization;

public class ChatTemplateTests
{
    private static readonly ChatMessage[] s_messages = [new("user", "Hi"), new("assistant", "Hello")];

    [Theory]
    [InlineData("{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}", "user:Hi;assistant:Hello;")]
    [InlineData("{{ messages | map(attribute='role') | join(',') }}", "user,assistant")]
    [InlineData("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2")]
    [InlineData("{{ 1e-7 }} {{ 1e16 }} {{ 0.1 + 0.2 }} {{ 7 // -2 }} {{ -7 % 3 }}", "1e-07 1e+16 0.30000000000000004 -4 2")]
    [InlineData("{{ {'a': [1, none, true]} | tojson }}", """{"a": [1, null, true]}""")]
    [InlineData("{{ 'añ👍'[-1] }}{{ 'añ👍' | length }}", "👍3")]
    [InlineData("  {% if true %}\nx\n  {% endif %}\ny", "x\ny")]
    public void RendersAsJinjaDoes(string template, string expected) => Assert.Equal(expected, Render(template).Text);

    [Fact]
    public void GenerationBlocksSayWhereTheAssistantSpeaks()
    {
        var rendering = Render("{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}");

        var (start, end) = Assert.Single(rendering.GenerationSpans);
        Assert.Equal("Hello", rendering.Text[start..end]);
    }

    [Theory]
    [InlineData("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}")]
    [InlineData("{% set x = 'a' * 1000000000 %}")]
    [InlineData("{% for i in range(100000) %}{{ 'a' * 10000 }}{% endfor %}")]
    [InlineData("{{ 9 ** 9 ** 9 ** 9 ** 9 ** 9 ** 9 }}")]
    [InlineData("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}")]
    [InlineData("{{ range(1000000000) }}")]
    [InlineData("{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x.replace('a', 'aa' * 1000) %}{% endfor %}")]
    [InlineData("{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}")]
    [InlineData("{{ '%999999999d' % 1 }}")]
    [InlineData("{{ 'x'.center(2000000000) }}")]
    public void AForeignTemplateCannotTakeOverTheMachine(string template) => Assert.Equal("ChatTemplateLimit", Assert.Throws<TemplateException>(() => Render(template)).ErrorId);

    [Theory]
    [InlineData("{{ messages.__class__.__mro__ }}")]
    [InlineData("{{ messages.append(1) }}")]
    [InlineData("{% include 'x' %}")]
    [InlineData("{{ ''.__class__.__base__.__subclasses__() }}")]
    public void AForeignTemplateHasAccessToNothing(string template) => Assert.Equal("ChatTemplateUnsafe", Assert.Throws<TemplateException>(() => Render(template)).ErrorId);

    [Theory]
    [InlineData("{% if x %}")]
    [InlineData("{{ x")]
    [InlineData("{{ 'x }}")]
    [InlineData("{% nonsense %}")]
    [InlineData("{{ (1 }}")]
    [InlineData("{{ 1 | nonsense }}")]
    public void ASyntaxErrorSaysWhere(string template) => Assert.Contains("line 1", Assert.Throws<TemplateException>(() => Render(template)).Message, StringComparison.Ordinal);

    [Fact]
    public void DeepNestingIsAnErrorNotACrash()
    {
        Assert.Throws<TemplateException>(() => Render("{{ " + new string('(', 100_000)));
        Assert.Throws<TemplateException>(() => Render("{{ " + string.Concat(Enumerable.Repeat("-", 100_000)) + "1 }}"));
        Assert.Throws<TemplateException>(() => Render(string.Concat(Enumerable.Repeat("{% if true %}", 100_000))));

        // How deep a sum may nest is up to the stack, and to how tight the JIT has packed the frames by then: half a megabyte never holds this one.
        Exception? error = null;
        var thread = new Thread(() => error = Record.Exception(() => Render("{{ 1" + string.Concat(Enumerable.Repeat(" + 1", 200_000)) + " }}")), 512 << 10);
        thread.Start();
        thread.Join();
        Assert.IsAssignableFrom<PeftException>(error);
    }

    [Fact]
    public void RandomTemplatesNeverCrash()
    {
        string[] parts = ["{{", "}}", "{%", "%}", "{#", "#}", " messages", " | ", "join", "(", ")", "[", "]", "'a'", "1", " for x in ", " endfor ", " if ", " else ", " endif ", " set x = ", ".", ",", "-", "+", "~", " is ", " not ", "defined", ":", " generation ", " endgeneration ", " raw ", " endraw ", "\n", "text"];
        var random = new Random(11);
        for (var i = 0; i < 3000; i++)
        {
            var template = string.Concat(Enumerable.Range(0, random.Next(1, 14)).Select(_ => parts[random.Next(parts.Length)]));
            try
            {
                Render(template);
            }
            catch (TemplateException)
            {
            }
        }
    }

    private static ChatRendering Render(string template) =>
        ChatTemplate.Parse(template).Render(s_messages, new ChatTemplateOptions(), new Dictionary<string, string>());
}
