using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Model;
using Peft.Adapters.Targets;
using Peft.Engine;
using Peft.Models;
using Peft.Models.Placement;
using Peft.Tests.Adapters;
using Xunit.Abstractions;
using static TorchSharp.torch;

namespace Peft.Tests.Models.Placement;

/// <summary>What a model larger than its share of memory holds there, on the shape of SmolLM2-135M in float32. No other test runs beside it.</summary>
[Collection(LiveTensors.Name)]
public sealed class OffloadMemoryTests(ITestOutputHelper output) : IDisposable
{
    private const long Limit = 200L << 20;

    /// <summary>The adapter with its gradients, activations and logits of a short text, and what the engine takes for itself.</summary>
    private const long BesideBytes = 80L << 20;

    private readonly TemporaryFolder _folder = new();

    [SkippableFact]
    public void It_computes_and_learns_within_its_limit()
    {
        Skip.IfNot(OperatingSystem.IsLinux(), "elsewhere the system decides which pages of mapped files are in memory");
        var weights = Write();
        Assert.True(weights > 2 * (Limit + BesideBytes) / 3 * 2);
        FreedMemory.GiveBack();
        var before = ProcessMemory.ResidentBytes;
        using var watch = new Watch();
        using var model = PeftModel.Load(_folder.Path, new LoadOptions { DeviceMap = new DeviceMapRequest { MaxMemory = [("cpu", Limit)] } });
        Assert.Contains(model.DeviceMap, static row => row.Device == "disk");
        Assert.Null(model.NonFiniteWarning(default));
        Report("load");
        var inputs = TinyLlama.Inputs(1, 16);
        using (NewDisposeScope())
        {
            ModelRun.Logits(model, inputs);
            Report("pass");
            var adapter = model.AddAdapter(new LoraConfig { Rank = 8, TargetModules = ModuleNames.AllLinear }, "a", 1);
            ModelRun.Backward(model, adapter, inputs);
            Report("step");
        }

        void Report(string what)
        {
            var most = watch.Take() - before;
            output.WriteLine(FormattableString.Invariant($"{what}: {most >> 20} MB of {weights >> 20} MB"));
            Assert.True(most < Limit + BesideBytes, FormattableString.Invariant($"{what}: {most >> 20} MB"));
        }
    }

    public void Dispose() => _folder.Dispose();

    private long Write()
    {
        using var noGradients = no_grad();
        using var bare = ArchitectureRegistry.Create(ModelConfig.FromText("""
            {
              "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 16384, "hidden_size": 576, "intermediate_size": 1536,
              "num_hidden_layers": 40, "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": true, "dtype": "float32"
            }
            """));
        bare.Prepare();
        foreach (var (_, parameter, _) in bare.NamedParameters().Where(static named => named.Parameter.IsOwner))
        {
            parameter.Assign(full([.. parameter.Shape], 0.02));
        }

        ModelLoader.Save(bare, _folder.Path, maxShardBytes: 128L << 20);
        return bare.CountParameters() * sizeof(float);
    }

    /// <summary>The most memory that was held since it was last asked.</summary>
    private sealed class Watch : IDisposable
    {
        private readonly CancellationTokenSource _end = new();
        private readonly Thread _thread;
        private long _most;

        public Watch()
        {
            _thread = new Thread(() =>
            {
                while (!_end.Token.WaitHandle.WaitOne(TimeSpan.FromMilliseconds(1)))
                {
                    Interlocked.Exchange(ref _most, Math.Max(Interlocked.Read(ref _most), ProcessMemory.ResidentBytes));
                }
            });
            _thread.Start();
        }

        public long Take() => Interlocked.Exchange(ref _most, 0);

        public void Dispose()
        {
            _end.Cancel();
            _thread.Join();
            _end.Dispose();
        }
    }
}
