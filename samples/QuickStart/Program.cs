using System.Globalization;
using Peft;
using Peft.Samples.QuickStart;

// The README's pipeline as a program on the same library: load, look, ask, train two adapters, switch, merge, save, load again.
CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
if (args is [var option, ..] && option is "-h" or "--help")
{
    Console.WriteLine("QuickStart [OUTPUT-FOLDER]: trains, switches, merges and saves adapters on the embedded model. Default folder: artifacts/demo.");
    return 0;
}

try
{
    return new Demonstration(RepositoryRoot.Folder, args.ElementAtOrDefault(0)).Run() ? 0 : 1;
}
catch (PeftException error)
{
    Console.Error.WriteLine($"{error.ErrorId}: {error.Message} {error.RecommendedAction}");
    return 1;
}
