using Peft.Tests.Adapters;

namespace Peft.Tests.Golden;

/// <summary>Adapters that PEFT turned into LoRA.</summary>
public class AdapterConversionGoldenTests
{
    [GoldenTheory]
    [GoldenData(AdapterGolden.Domain, "conversion/")]
    public void What_the_peer_converted_computes_the_same(string path) => GoldenCases.Run(AdapterGolden.Domain, path, folder =>
    {
        var record = AdapterGolden.Case(folder);
        var converted = new[] { "converted", "adapter" }.Select(name => Path.Combine(folder, name)).FirstOrDefault(Directory.Exists);
        if (converted is not null && record["error"] is null)
        {
            using var model = AdapterGolden.Base((string)record["base"]!);
            model.LoadAdapter(converted);
            var io = AdapterGolden.Tensors(Path.Combine(folder, "io.safetensors"));
            using var logits = ModelRun.Logits(model, io);
            AdapterGolden.AssertClose(io["converted_logits"], logits, record["tolerance"]!, "converted logits");
            AdapterGolden.Free(io);
        }

        throw new NotSupportedByPeftException("AdapterConversionNotSupported", "Adapters of one method can't be turned into another's yet.");
    });
}
