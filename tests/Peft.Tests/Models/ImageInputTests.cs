using System.Text.Json.Nodes;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>Models of several parts, of which text alone is computed.</summary>
public class ImageInputTests
{
    [Fact]
    public void An_image_for_a_model_that_is_computed_for_text_alone_is_an_error_that_says_so()
    {
        using var scope = NewDisposeScope();
        using var model = ArchitectureRegistry.Create(new ModelConfig(new JsonObject
        {
            ["model_type"] = "qwen3_5",
            ["text_config"] = new JsonObject { ["model_type"] = "qwen3_5_text", ["num_hidden_layers"] = 1 },
        }));
        var inputs = new ModelInputs { Ids = zeros([1, 2], ScalarType.Int64), Pixels = zeros(1, 3, 4, 4) };
        var error = Assert.Throws<NotSupportedByPeftException>(() => model.Forward(inputs, new ForwardContext()));
        Assert.Equal("ImagesNotSupported", error.ErrorId);
        Assert.NotNull(error.RecommendedAction);
    }
}
