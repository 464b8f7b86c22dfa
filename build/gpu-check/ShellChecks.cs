using System.Diagnostics;
using System.Management.Automation;
using System.Management.Automation.Runspaces;
using System.Text.RegularExpressions;
using Peft.Cmdlets.Commands.Model;

namespace Peft.Build.Gpu;

/// <summary>The cmdlets in one runspace of PowerShell's engine: the README's block, Ctrl-C in the middle of a step, out of memory, memory given back.</summary>
internal static partial class ShellChecks
{
    private static string Training(string name, int epochs, int batch, string data = "$data") =>
        "$model | Invoke-LoraTraining -Config (New-LoraConfig -Rank 8 -TargetModule all-linear) "
        + $"-Dataset {data} -AdapterName {name} -Epoch {epochs} -BatchSize {batch}";

    public static void Run(CheckMachine machine)
    {
        var folder = Directory.CreateTempSubdirectory("peft-gpu-");
        try
        {
            var state = InitialSessionState.CreateDefault2();
            state.ImportPSModule([typeof(ImportPeftModelCommand).Assembly.Location]);
            using var runspace = RunspaceFactory.CreateRunspace(state);
            runspace.Open();
            runspace.SessionStateProxy.Path.SetLocation(folder.FullName);
            Directory.CreateSymbolicLink(Path.Combine(folder.FullName, "assets"), machine.At("assets"));
            Output(runspace, $"$PSDefaultParameterValues['Import-PeftModel:Device'] = '{machine.DeviceName}'");
            Readme(machine, runspace);
            Stop(runspace);
            if (machine.IsGpu)
            {
                OutOfMemory(machine, runspace);
                GiveBack(machine, runspace);
            }
            else
            {
                Console.WriteLine("  out of memory and memory given back: left out on the CPU");
            }
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    private static void Readme(CheckMachine machine, Runspace runspace)
    {
        var block = FirstBlock().Match(File.ReadAllText(machine.At("README.md"))).Groups[1].Value;
        var output = Output(runspace, block.Replace("Import-Module ./Peft.psd1", "", StringComparison.Ordinal));
        CheckFailedException.Unless(output.Any(value => $"{value}".Contains("Austin", StringComparison.Ordinal)), "the README's block answers Austin");
        CheckFailedException.Unless($"{Output(runspace, "$model.Device")[0]}".StartsWith(machine.DeviceName, StringComparison.Ordinal), "the model is on the device");
        Console.WriteLine("  the README's block runs");
    }

    private static void Stop(Runspace runspace)
    {
        Output(runspace, "$model | Remove-PeftModel; $model = Import-PeftModel ./assets/pocket-llama; $data = Import-TrainingDataset ./assets/data/capitals.jsonl");
        using var shell = PowerShell.Create(runspace);
        var running = shell.AddScript(Training("stopped", 100000, 25)).BeginInvoke();
        Thread.Sleep(TimeSpan.FromSeconds(5));
        CheckFailedException.Unless(!running.IsCompleted, "the training runs");
        var clock = Stopwatch.StartNew();
        shell.Stop();
        Console.WriteLine($"  Ctrl-C gave the prompt back in {clock.Elapsed.TotalSeconds:F1} s");
        CheckFailedException.Unless(clock.Elapsed < TimeSpan.FromSeconds(2), "within two seconds");
        Output(runspace, "$model | Invoke-TextGeneration 'Question:' -MaxNewToken 4");
    }

    private static void OutOfMemory(CheckMachine machine, Runspace runspace)
    {
        var filler = machine.Fill(free: 200L << 20);
        using (var shell = PowerShell.Create(runspace))
        {
            ErrorRecord? error = null;
            try
            {
                // Some 200,000 tokens a step: more than what is left, whatever the rest of the step's memory.
                shell.AddScript("$many = 1..512 | ForEach-Object { [pscustomobject]@{ text = 'The capital of Texas is Austin. ' * 60 } } | Import-TrainingDataset; "
                    + Training("large", 1, 512, "$many")).Invoke();
                error = shell.Streams.Error.FirstOrDefault();
            }
            catch (RuntimeException terminating)
            {
                error = terminating.ErrorRecord;
            }

            Console.WriteLine($"  out of memory: {error?.FullyQualifiedErrorId}: {error}");
            filler.ForEach(static tensor => tensor.Dispose());
            CheckFailedException.Unless(error is not null && error.FullyQualifiedErrorId.Contains("Memory", StringComparison.Ordinal), "out of memory is an error of its own");
        }

        Output(runspace, Training("after", 1, 10));
        Console.WriteLine("  a second training in the same runspace runs");
    }

    /// <summary>With memory left for two of it, a model can be loaded and removed any number of times.</summary>
    private static void GiveBack(CheckMachine machine, Runspace runspace)
    {
        Output(runspace, "Get-PeftModel | Remove-PeftModel");
        var filler = machine.Fill(free: 40L << 20);
        Output(runspace, "1..20 | ForEach-Object { Import-PeftModel ./assets/pocket-llama -DataType float32 | Remove-PeftModel }");
        filler.ForEach(static tensor => tensor.Dispose());
        Console.WriteLine("  Remove-PeftModel gives the memory back");
    }

    private static List<object?> Output(Runspace runspace, string script)
    {
        using var shell = PowerShell.Create(runspace);
        try
        {
            var output = shell.AddScript(script).Invoke();
            CheckFailedException.Unless(shell.Streams.Error.Count == 0, string.Join("; ", shell.Streams.Error.Select(static error => $"{error.FullyQualifiedErrorId}: {error}")));
            return [.. output];
        }
        catch (RuntimeException error)
        {
            throw new CheckFailedException($"{error.ErrorRecord.FullyQualifiedErrorId}: {error.Message}");
        }
    }

    [GeneratedRegex(@"```powershell\r?\n(.*?)```", RegexOptions.Singleline, matchTimeoutMilliseconds: 1000)]
    private static partial Regex FirstBlock();
}
