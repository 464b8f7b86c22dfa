using Peft.Tensors;
using static TorchSharp.torch;

namespace Peft.Tests.Faults;

/// <summary>Random damage to a safetensors file.</summary>
public sealed class SafetensorsFaultTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact, Fault]
    public void ADamagedFileIsReadOrRefusedWithAnErrorOfOurs()
    {
        var path = _folder["model.safetensors"];
        SafetensorsWriter.Write(path, [("layer.weight", ones(3, 5)), ("layer.bias", zeros(5, dtype: ScalarType.BFloat16))]);
        var whole = File.ReadAllBytes(path);
        FaultBudget.Run(random =>
        {
            var damaged = _folder.Write($"damaged-{random.Next()}.safetensors", Damage.Apply(whole, random));
            try
            {
                using var file = SafetensorsFile.Open(damaged);
                foreach (var name in file.Names)
                {
                    file.Read(name).Dispose();
                }
            }
            catch (PeftException)
            {
                // Refused, as it should be.
            }

            File.Delete(damaged);
        });
    }
}
