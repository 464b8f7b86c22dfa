using Peft.Models;

namespace Peft.Tests.Models;

public class KeyMapTests
{
    private static readonly KeyMap s_map = new(
        new KeyRule("mlp.experts.gate_up_proj", "moe.experts.#.w1.weight", "moe.experts.#.w3.weight"),
        new KeyRule("mlp.gate", "moe.gate"),
        new KeyRule(["q_proj", "k_proj"], ["qk_proj"]),
        new KeyRule("model.language_model", "language_model.model"));

    private static readonly Dictionary<string, long[]> s_shapes = new()
    {
        ["model.language_model.layers.0.mlp.gate.weight"] = [4, 8],
        ["layers.0.mlp.experts.gate_up_proj"] = [2, 6, 8],
        ["layers.0.q_proj.weight"] = [8, 8],
        ["layers.0.k_proj.weight"] = [4, 8],
        ["layers.0.norm.weight"] = [8],
    };

    [Fact]
    public void A_name_goes_through_every_rule_that_fits_and_stays_what_it_is_as_the_last_choice()
    {
        var names = Places("model.language_model.layers.0.mlp.gate.weight").Select(static place => place.Single().Name).ToArray();
        Assert.Equal("language_model.model.layers.0.moe.gate.weight", names[0]);
        Assert.Equal("model.language_model.layers.0.mlp.gate.weight", names[^1]);
        Assert.Equal(["layers.0.norm.weight"], Places("layers.0.norm.weight").Select(static place => place.Single().Name));
    }

    [Fact]
    public void Several_names_join_in_one_parameter_for_each_expert() => Assert.Equal(
        [
            new FilePart("layers.0.moe.experts.0.w1.weight", 0, 0, 3, 0),
            new FilePart("layers.0.moe.experts.0.w3.weight", 0, 3, 3, 0),
            new FilePart("layers.0.moe.experts.1.w1.weight", 1, 0, 3, 0),
            new FilePart("layers.0.moe.experts.1.w3.weight", 1, 3, 3, 0),
        ],
        Places("layers.0.mlp.experts.gate_up_proj")[0]);

    [Fact]
    public void One_name_is_cut_into_several_parameters()
    {
        Assert.Equal([new FilePart("layers.0.qk_proj.weight", null, 0, 8, 0)], Places("layers.0.q_proj.weight")[0]);
        Assert.Equal([new FilePart("layers.0.qk_proj.weight", null, 0, 4, 8)], Places("layers.0.k_proj.weight")[0]);
    }

    [Fact]
    public void A_name_of_an_adapter_file_leads_back_to_the_tree()
    {
        Assert.Equal(new TreeKey("layers.0.mlp.experts.gate_up_proj", 7, 1, 2), s_map.ToTree("layers.0.moe.experts.7.w3"));
        Assert.Equal(new TreeKey("model.language_model.layers.0.mlp.gate", null, 0, 1), s_map.ToTree("language_model.model.layers.0.moe.gate"));
        Assert.Equal(new TreeKey("layers.0.moe.gateway", null, 0, 1), s_map.ToTree("layers.0.moe.gateway"));
    }

    private static List<IReadOnlyList<FilePart>> Places(string path) => [.. s_map.Places(path, static name => s_shapes[name])];
}
