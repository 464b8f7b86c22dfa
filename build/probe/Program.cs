using System.Runtime.InteropServices;
using TorchSharp;

// Prints why the engine does not run here, on one line, and ends with exit code 1; says nothing where it runs.
try
{
    return torch.ones(2).sum().item<float>() == 2 ? 0 : 1;
}
catch (Exception error) when (error is TypeInitializationException or NotSupportedException or DllNotFoundException or BadImageFormatException)
{
    Console.WriteLine(LoaderError() ?? error.GetBaseException().Message.ReplaceLineEndings(" "));
    return 1;
}

// TorchSharp's message only guesses at a missing package; the system's loader knows which symbol or library it misses.
static string? LoaderError()
{
    var files = Directory.EnumerateFiles(AppContext.BaseDirectory, "*LibTorchSharp.*", SearchOption.AllDirectories)
        .Where(file => file.Contains(RuntimeInformation.RuntimeIdentifier, StringComparison.Ordinal));
    foreach (var file in files)
    {
        try
        {
            NativeLibrary.Load(file);
        }
        catch (DllNotFoundException error)
        {
            return error.Message.Split('\n').FirstOrDefault(line => line.Contains("not found", StringComparison.Ordinal));
        }
    }

    return null;
}
