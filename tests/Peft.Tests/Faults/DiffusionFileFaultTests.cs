using Peft.Diffusion;
using Peft.Diffusion.Adapters;
using Peft.Diffusion.Pipelines;
using Peft.Tests.Diffusion;
using Peft.Tests.Golden;

namespace Peft.Tests.Faults;

/// <summary>Random damage to diffusion models, in folders and in one file, and to adapters of theirs of every format.</summary>
public sealed class DiffusionFileFaultTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact, Fault]
    public void Adapters()
    {
        var files = GoldenCases.DomainFolder("diffusion") is { } domain
            ? ReaderTrial.Files("lora.safetensors", "lycoris.safetensors", "pytorch_lora_weights.safetensors", "learned_embeds.*", "*.pt").Where(path => path.StartsWith(domain, StringComparison.Ordinal)).ToArray()
            : [];
        if (files.Length == 0)
        {
            return;
        }

        var kinds = Directory.GetDirectories(GoldenCases.PathOf("diffusion", "models")).Order(StringComparer.Ordinal).ToArray();
        var formats = Enum.GetValues<DiffusionAdapterFormat>();
        FaultBudget.Run(random => ReaderTrial.InFolder(_folder, folder =>
        {
            var source = files[random.Next(files.Length)];
            var path = Path.Combine(folder, "damaged" + Path.GetExtension(source));
            File.WriteAllBytes(path, Damage.Of(source, File.ReadAllBytes(source), random));
            using var model = DiffusionModelFiles.Load(kinds[random.Next(kinds.Length)]);
            ReaderTrial.Bounded(() =>
            {
                DiffusionAdapterFile.Load(model, path, "damaged");
                DiffusionAdapterFile.Save(model, "damaged", Path.Combine(folder, "saved.safetensors"), formats[random.Next(formats.Length)]);
                model.Merge();
            });
            ReaderTrial.Bounded(() => DiffusionAdapterFile.Convert(path, Path.Combine(folder, "converted.safetensors"), formats[random.Next(formats.Length)], random.Next(2) == 0 ? model.Base : null));
        }));
    }

    [Fact, Fault]
    public void Models()
    {
        using (var model = TinyStableDiffusion.Create(_folder.Path))
        {
            model.Save(_folder["tiny"]);
            model.Save(_folder["one.safetensors"]);
        }

        var one = File.ReadAllBytes(_folder["one.safetensors"]);
        FaultBudget.Run(random => ReaderTrial.InFolder(_folder, folder =>
        {
            var path = folder;
            if (random.Next(2) == 0)
            {
                ReaderTrial.CopyDamaged(_folder["tiny"], folder, random);
            }
            else
            {
                path = Path.Combine(folder, "one.safetensors");
                File.WriteAllBytes(path, Damage.Of(path, one, random));
            }

            ReaderTrial.Bounded(() =>
            {
                using var model = DiffusionModelFiles.Load(path, configPath: path != folder && random.Next(2) == 0 ? _folder["tiny"] : null);
                new ImageGenerator(model).Generate("a red bird", new ImageOptions { Width = 16, Height = 16, Steps = 2 });
            });
        }));
    }
}
