using Peft.Build;

// NativeLibraries SOURCE TARGET: copies a library as the build takes it. An error is one line in the form that MSBuild shows.
try
{
    if (Path.GetExtension(args[0]) == ".dll")
    {
        HeldHandles.Copy(args[0], args[1]);
    }
    else if (VersionNeeds.CopyLoadable(args[0], args[1], VersionNeeds.OnThisSystem) is { } sentence)
    {
        Console.WriteLine(sentence);
    }

    return 0;
}
catch (Exception refused) when (refused is NotSupportedException or InvalidDataException)
{
    Console.WriteLine($"{Path.GetFileName(args[0])} : error PEFT0001: {refused.Message}");
    return 1;
}
