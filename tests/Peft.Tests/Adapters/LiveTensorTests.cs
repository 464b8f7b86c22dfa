using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Targets;
using static TorchSharp.torch;

namespace Peft.Tests.Adapters;

/// <summary>Counts of live tensors, which no other test may change meanwhile.</summary>
[Collection(LiveTensors.Name)]
public class LiveTensorTests
{
    private static readonly LoraConfig s_config = new() { Rank = 2, TargetModules = ModuleNames.AllLinear };

    [Fact]
    public void Removing_adapters_frees_their_tensors()
    {
        using var model = TinyLlama.Create();
        LiveTensors.Settle();
        model.AddAdapter(s_config, "warm");
        model.RemoveAdapter("warm");
        var before = Tensor.TotalCount;
        model.AddAdapter(s_config with { ModulesToSave = ["lm_head"] }, "a");
        Assert.NotEqual(before, Tensor.TotalCount);
        model.RemoveAdapter("a");
        Assert.Equal(before, Tensor.TotalCount);
    }

    [Fact]
    public void Merging_and_undoing_leaves_no_tensor_behind()
    {
        using var model = TinyLlama.Create();
        LiveTensors.Settle();
        model.AddAdapter(s_config);
        model.Merge();
        model.UndoMerge();
        var before = Tensor.TotalCount;
        for (var i = 0; i < 3; i++)
        {
            model.Merge();
            model.UndoMerge();
        }

        Assert.Equal(before, Tensor.TotalCount);
    }
}

/// <summary>Tests that count live tensors run alone.</summary>
[CollectionDefinition(Name, DisableParallelization = true)]
public sealed class LiveTensors
{
    public const string Name = "Live tensors";

    /// <summary>Frees what earlier tests and the making of a model left to the garbage collector, lest it happen during the count.</summary>
    public static void Settle()
    {
        GC.Collect();
        GC.WaitForPendingFinalizers();
    }
}
