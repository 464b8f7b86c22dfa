namespace Peft.Build;

/// <summary>The PowerShell that build.ps1 runs in.</summary>
internal static class PowerShell
{
    /// <summary>Runs a script.</summary>
    /// <param name="powerShell">A pwsh, or the pwsh.dll of the dotnet tool.</param>
    /// <param name="script">The script's file.</param>
    /// <param name="arguments">Its arguments.</param>
    /// <returns>Its exit code.</returns>
    public static int Run(string powerShell, string script, params string[] arguments)
    {
        var (program, all) = Invocation(powerShell, script, arguments);
        return Command.Run(program, all);
    }

    /// <summary>The program and the arguments that run a script.</summary>
    /// <inheritdoc cref="Run" path="/param"/>
    public static (string Program, string[] Arguments) Invocation(string powerShell, string script, params string[] arguments)
    {
        string[] all = ["-NoProfile", "-NonInteractive", "-File", script, .. arguments];
        return powerShell.EndsWith(".dll", StringComparison.OrdinalIgnoreCase) ? ("dotnet", [powerShell, .. all]) : (powerShell, all);
    }
}
