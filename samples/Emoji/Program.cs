using System.Globalization;
using Peft;
using Peft.Samples.Emoji;

// A diffusion model of a hundredth of Stable Diffusion's size learns emoji from nothing, then a LoRA learns a style of them.
CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
if (args is [var option, ..] && option is "-h" or "--help")
{
    Console.WriteLine("Emoji [OUTPUT-FOLDER [STEPS]]: trains a tiny diffusion model on emoji, and a style on top. Default: artifacts/emoji, 3000 steps.");
    return 0;
}

try
{
    var folder = args.ElementAtOrDefault(0) ?? Path.Combine(RepositoryRoot.Folder, "artifacts", "emoji");
    new Demonstration(folder, int.Parse(args.ElementAtOrDefault(1) ?? "3000", CultureInfo.InvariantCulture)).Run();
    return 0;
}
catch (PeftException error)
{
    Console.Error.WriteLine($"{error.ErrorId}: {error.Message} {error.RecommendedAction}");
    return 1;
}
