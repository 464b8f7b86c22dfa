using TorchSharp;

// Prints why the engine does not run here, on one line, and ends with exit code 1; says nothing where it runs.
try
{
    return torch.ones(2).sum().item<float>() == 2 ? 0 : 1;
}
catch (Exception error) when (error is TypeInitializationException or NotSupportedException or DllNotFoundException or BadImageFormatException)
{
    var cause = error;
    while (cause.InnerException is not null)
    {
        cause = cause.InnerException;
    }

    Console.WriteLine(cause.Message.ReplaceLineEndings(" "));
    return 1;
}
