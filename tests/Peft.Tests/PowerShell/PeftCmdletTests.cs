using System.Diagnostics;
using System.Management.Automation;
using System.Management.Automation.Runspaces;
using System.Runtime.InteropServices;
using Peft.Cmdlets.Pipeline;

namespace Peft.Tests.PowerShell;

/// <summary>What every cmdlet inherits: work on its own thread, its end, and errors as records.</summary>
public sealed class PeftCmdletTests
{
    [Fact]
    public void What_the_work_writes_arrives_in_order_on_the_pipeline_thread()
    {
        using var shell = Create("Test-Work -Count 500 -Verbose");
        var output = shell.Invoke();
        Assert.Equal(Enumerable.Range(0, 500), output.Select(static item => (int)item.BaseObject));
        Assert.Equal("began", Assert.Single(shell.Streams.Verbose).Message);
        Assert.Equal("done", Assert.Single(shell.Streams.Warning).Message);
        Assert.Equal(50, Assert.Single(shell.Streams.Progress).PercentComplete);
        Assert.Equal("a line", Assert.Single(shell.Streams.Information).MessageData.ToString());
    }

    [Fact]
    public void Select_First_ends_the_work()
    {
        TestWorkCommand.Reset();
        using var shell = Create("Test-Work -Count 2147483647 | ForEach-Object { $_ } | . { param([Parameter(ValueFromPipeline)] $item) process { $item; if ($item -ge 2) { break } } }");
        shell.Invoke();
        Assert.True(TestWorkCommand.Ended.Wait(TimeSpan.FromSeconds(2)));
    }

    [Fact]
    public void Stopping_ends_the_command_within_two_seconds_although_a_native_call_goes_on()
    {
        TestWorkCommand.Reset();
        using var shell = Create("Test-Work -Hang 4");
        var invocation = shell.BeginInvoke();
        TestWorkCommand.Began.Wait(TimeSpan.FromSeconds(5));

        var clock = Stopwatch.StartNew();
        shell.Stop();
        Assert.True(clock.Elapsed < TimeSpan.FromSeconds(2), clock.Elapsed.ToString());
        Assert.Throws<PipelineStoppedException>(() => shell.EndInvoke(invocation));
        Assert.True(TestWorkCommand.Ended.Wait(TimeSpan.FromSeconds(20)), "the abandoned work ends by itself");
    }

    [Fact]
    public void Stopping_ends_work_that_looks_at_the_token_and_leaves_the_runspace_usable()
    {
        TestWorkCommand.Reset();
        using var shell = Create("Test-Work -Count 2147483647 | ForEach-Object { }");
        var invocation = shell.BeginInvoke();
        TestWorkCommand.Began.Wait(TimeSpan.FromSeconds(5));
        shell.Stop();
        Assert.Throws<PipelineStoppedException>(() => shell.EndInvoke(invocation));
        Assert.True(TestWorkCommand.Ended.IsSet);

        shell.Commands.Clear();
        Assert.Equal(3, shell.AddScript("Test-Work -Count 3").Invoke().Count);
    }

    [Fact]
    public void A_recognised_error_becomes_a_record_with_id_category_target_and_action()
    {
        using var shell = Create("Test-Work -Fail FileNotFound");
        shell.Invoke();
        var record = Assert.Single(shell.Streams.Error);
        Assert.Equal("FileNotFound,Peft.Tests.PowerShell.TestWorkCommand", record.FullyQualifiedErrorId);
        Assert.Equal(ErrorCategory.ObjectNotFound, record.CategoryInfo.Category);
        Assert.Equal("the target", record.TargetObject);
        Assert.Equal("Do something else.", record.ErrorDetails.RecommendedAction);
        Assert.Equal("It failed.", record.Exception.Message);
    }

    [Theory]
    [InlineData("PeftModelBusy", ErrorCategory.ResourceBusy)]
    [InlineData("OutputExists", ErrorCategory.ResourceExists)]
    [InlineData("SafetensorsHeaderTooLong", ErrorCategory.InvalidData)]
    [InlineData("ModelMerged", ErrorCategory.InvalidOperation)]
    [InlineData("GenerationOptionInvalid", ErrorCategory.InvalidArgument)]
    [InlineData("ParametersContradict", ErrorCategory.InvalidArgument)]
    [InlineData("FileUnreadable", ErrorCategory.ReadError)]
    [InlineData("CheckpointWriteFailed", ErrorCategory.WriteError)]
    [InlineData("DatasetEmpty", ErrorCategory.InvalidData)]
    [InlineData("ModelConfigMissing", ErrorCategory.InvalidData)]
    [InlineData("DatasetEncodingUnknown", ErrorCategory.InvalidArgument)]
    [InlineData("NotAFolder", ErrorCategory.InvalidArgument)]
    public void Categories_follow_from_ids(string id, ErrorCategory category)
    {
        using var shell = Create($"Test-Work -Fail {id}");
        shell.Invoke();
        Assert.Equal(category, Assert.Single(shell.Streams.Error).CategoryInfo.Category);
    }

    [Fact]
    public void An_error_about_one_input_lets_the_others_pass()
    {
        using var shell = Create("1, -1, 2 | Test-Work");
        Assert.Equal(3, shell.Invoke().Count);
        Assert.Equal("CountInvalid,Peft.Tests.PowerShell.TestWorkCommand", Assert.Single(shell.Streams.Error).FullyQualifiedErrorId);
    }

    [Fact]
    public void An_unknown_exception_asks_for_a_report()
    {
        using var shell = Create("Test-Work -Fail Unknown");
        shell.Invoke();
        var record = Assert.Single(shell.Streams.Error);
        Assert.StartsWith("UnexpectedError,", record.FullyQualifiedErrorId, StringComparison.Ordinal);
        Assert.Contains("report", record.ErrorDetails.RecommendedAction, StringComparison.Ordinal);
    }

    [Fact]
    public void A_type_that_the_engine_cannot_compute_in_is_no_defect()
    {
        using var shell = Create("Test-Work -Fail Engine");
        shell.Invoke();
        var record = Assert.Single(shell.Streams.Error);
        Assert.StartsWith("EngineTypeNotSupported,", record.FullyQualifiedErrorId, StringComparison.Ordinal);
        Assert.Equal(ErrorCategory.NotImplemented, record.CategoryInfo.Category);
        Assert.Contains("-DataType bfloat16", record.ErrorDetails.RecommendedAction, StringComparison.Ordinal);
    }

    private static System.Management.Automation.PowerShell Create(string script)
    {
        var state = InitialSessionState.CreateDefault2();
        state.Commands.Add(new SessionStateCmdletEntry("Test-Work", typeof(TestWorkCommand), helpFileName: null));
        return System.Management.Automation.PowerShell.Create(state).AddScript(script);
    }
}

/// <summary>Work of every kind, for the tests of the base class.</summary>
[Cmdlet(VerbsDiagnostic.Test, "Work")]
public sealed class TestWorkCommand : PeftCmdlet
{
    public static ManualResetEventSlim Began { get; } = new();

    public static ManualResetEventSlim Ended { get; } = new();

    public static void Reset()
    {
        Began.Reset();
        Ended.Reset();
    }

    [Parameter(ValueFromPipeline = true)]
    public int Count { get; set; } = 1;

    [Parameter]
    public int Hang { get; set; }

    [Parameter]
    public string? Fail { get; set; }

    protected override void Process() => Run(output =>
    {
        Began.Set();
        try
        {
            Work(output);
        }
        finally
        {
            Ended.Set();
        }
    });

    private void Work(WorkOutput output)
    {
        if (Fail is not null)
        {
            throw Fail switch
            {
                "Unknown" => new InvalidTimeZoneException("What is this?"),
                "Engine" => new ExternalException("\"addmm_impl_cpu_\" not implemented for 'Half'"),
                _ => new PeftException(Fail, "It failed.") { Target = "the target", RecommendedAction = "Do something else." },
            };
        }

        if (Count < 0)
        {
            throw new PeftException("CountInvalid", "A count is not negative.");
        }

        output.WriteVerbose("began");
        output.WriteProgress(new ProgressRecord(1, "Work", "half") { PercentComplete = 50 });
        output.WriteLine("a line");
        Thread.Sleep(TimeSpan.FromSeconds(Hang));
        for (var number = 0; number < Count; number++)
        {
            output.WriteObject(number);
        }

        output.WriteWarning("done");
    }
}
