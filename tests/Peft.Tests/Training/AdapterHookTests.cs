using Peft.Adapters;
using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Slots;
using Peft.Adapters.Targets;
using Peft.Models.Layers;
using Peft.Tests.Adapters;
using Peft.Training;
using static TorchSharp.torch;

namespace Peft.Tests.Training;

/// <summary>What a method may do through the loop's hooks, by one that freezes all but its first layer after some steps.</summary>
public sealed class AdapterHookTests
{
    private const int FrozenAfter = 2;

    private static readonly TrainingOptions s_options = new() { LearningRate = 2e-2, BatchSize = 2, MaxSteps = 6, Seed = 5, Schedule = "constant", WeightDecay = 0.01 };

    [Fact]
    public void What_an_adapter_freezes_stays_as_it_is_and_the_rest_goes_on()
    {
        using var model = Model();
        var frozen = model["tuned"].TrainableParameters[2].Parameter;
        var (moving, weights) = (model["tuned"].TrainableParameters[0].Parameter, new List<float>());
        List<long> counts = [];
        var request = TrainerTests.Request(model, s_options) with
        {
            OnStep = details =>
            {
                counts.Add(details.Parameters.Count);
                weights.Add(frozen.Data[0, 0].item<float>());
            },
        };
        new Trainer(request).Train();
        Assert.Equal(FrozenAfter, counts.LastIndexOf(counts[0]) + 1);
        Assert.Equal(moving.Count + model["tuned"].TrainableParameters[1].Parameter.Count, counts[^1]);
        Assert.NotEqual(weights[0], weights[FrozenAfter]);
        Assert.Single(weights[FrozenAfter..].Distinct());
        Assert.False(frozen.IsTrained || moving.IsTrained);
        Assert.Equal(["gradients", "clipped", "stepped"], ((FreezingAdapter)model["tuned"].Adapter).Calls.Take(3));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(4)]
    public void A_training_goes_on_with_what_the_adapter_remembers(int stoppedAfter) => TrainerTests.GoesOnAfter(stoppedAfter, Model, s_options);

    private static PeftModel Model()
    {
        var model = TinyLlama.Create();
        model.AddAdapter(new FreezingConfig { TargetModules = ModuleNames.Of("q_proj", "down_proj") }, "tuned", seed: 3);
        return model;
    }

    private sealed record FreezingConfig : LayerwiseConfig
    {
        public override string PeftType => "LORA";

        public override Adapter CreateAdapter(string name) => new FreezingAdapter(name, this);

        public override LayerAdapter CreateLayer(IAdaptable layer, LayerwiseAdapter adapter, ICollection<string> messages) =>
            new LoraConfig { Rank = 4, Alpha = 8 }.CreateLayer(layer, adapter, messages);
    }

    private sealed class FreezingAdapter(string name, FreezingConfig config) : LayerwiseAdapter(name, config)
    {
        private int _steps;

        public List<string> Calls { get; } = [];

        public override IReadOnlyList<AdapterParameter> Parameters() =>
            [.. base.Parameters().Select((parameter, i) => _steps >= FrozenAfter && i >= 2 ? parameter with { Role = ParameterRole.Frozen } : parameter)];

        public override void OnGradients(int step) => Calls.Add("gradients");

        public override void OnClippedGradients(int step) => Calls.Add("clipped");

        public override bool OnStepped(int step)
        {
            Calls.Add("stepped");
            return ++_steps == FrozenAfter;
        }

        public override IReadOnlyDictionary<string, Tensor> State() => new Dictionary<string, Tensor> { ["steps"] = tensor(new long[] { _steps }) };

        public override void LoadState(IReadOnlyDictionary<string, Tensor> state) => _steps = (int)state["steps"].item<long>();
    }
}
