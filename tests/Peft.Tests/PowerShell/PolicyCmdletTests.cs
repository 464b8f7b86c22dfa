using System.Management.Automation;

namespace Peft.Tests.PowerShell;

/// <summary>Invoke-PolicyTraining: rewards that are script blocks of the session.</summary>
public sealed class PolicyCmdletTests(ModuleHost host) : CmdletsInFolder(host, import: "-DataType float32")
{
    private const string Start = "$data = 'One two', 'Four five' | Import-TrainingDataset; $config = New-LoraConfig -TargetModule q_proj -Rank 2; $short = @{ GroupSize = 2; BatchSize = 4; MaxCompletionLength = 3; MaxSteps = 2 };";

    [Fact]
    public void A_reward_runs_in_the_session_with_its_functions_and_gets_the_row()
    {
        var result = host.Run(Start + """
            function Measure-Answer($text) { $script:asked++; $text.Length }
            $script:asked = 0
            $data = @{ prompt = 'One two'; limit = 3 }, @{ prompt = 'Four five'; limit = 4 } | Import-TrainingDataset
            $adapter = $args[0] | Invoke-PolicyTraining $config $data { param($prompt, $completion, $row) if ($row.limit -notin 3, 4) { throw 'no row' }; Measure-Answer $completion } @short -OutputPath out
            $script:asked
            $adapter.TrainingRecord.Objective
            $adapter.TrainingRecord.Steps[0].Metrics.Keys
            [IO.File]::ReadAllLines("$PWD/out/default/completions/step-2.jsonl").Count
            """, model);
        Assert.Empty(result.Errors);
        Assert.Equal([8, "grpo"], result.Output.Take(2).Select(static value => value.BaseObject));
        Assert.Contains("rewards/reward/mean", result.Output.Select(static value => value.ToString()));
        Assert.Equal(4, result.Output[^1].BaseObject);
    }

    [Fact]
    public void Several_rewards_have_names_and_weights_and_may_say_nothing()
    {
        var metrics = host.Output(Start + """
            $rewards = [ordered]@{ one = { 1 }; none = { $null }; ended = { param($prompt) $_.IsEnded } }
            ($args[0] | Invoke-GrpoTraining $config $data $rewards -RewardWeight 2, 5, 0 @short).TrainingRecord.Steps[0].Metrics
            """, model)[0].BaseObject;
        var values = (IReadOnlyDictionary<string, double>)metrics;
        Assert.Equal(2, values["reward"]);
        Assert.Equal(1, values["rewards/one/mean"]);
        Assert.DoesNotContain("rewards/none/mean", values.Keys);
        Assert.Contains("rewards/ended/mean", values.Keys);
    }

    [Theory]
    [InlineData("{ throw 'nonsense' }", "RewardFailed", "nonsense")]
    [InlineData("{ 'many' }", "RewardInvalid", "'many'")]
    [InlineData("{ 1; 2 }", "RewardInvalid", "2 values")]
    [InlineData("{ $args[0] | Out-Null; $model | Invoke-TextGeneration 'A' -MaxNewTokens 1 }", "PeftModelBusy", "busy with training")]
    [InlineData("'text'", "RewardInvalid", "no reward")]
    public void What_goes_wrong_in_a_reward_names_the_answer(string reward, string errorId, string word)
    {
        var result = host.Run(Start + $$"""$model = $args[0]; $model | Invoke-PolicyTraining $config $data {{reward}} @short; $model.Adapters.Count""", model);
        var error = Assert.Single(result.Errors, error => error.FullyQualifiedErrorId.StartsWith(errorId + ",", StringComparison.Ordinal));
        Assert.Contains(word, error.Exception.Message, StringComparison.Ordinal);
        Assert.True(error.Exception.Message.Contains("(row ", StringComparison.Ordinal) || reward == "'text'", error.Exception.Message);
        Assert.Equal(0, result.Output[^1].BaseObject);
    }

    [Fact]
    public void A_reward_may_ask_another_model()
    {
        var result = host.Run(Start + """
            $other = Import-PeftModel $args[1] -Name judge
            $adapter = $args[0] | Invoke-PolicyTraining $config $data { param($prompt, $completion) ($other | Invoke-TextGeneration "$prompt$completion" -MaxNewTokens 1).Length } @short
            $adapter.Name
            $other | Remove-PeftModel
            """, model, PocketLlama);
        Assert.Empty(result.Errors);
        Assert.Equal("default", result.Output[0].ToString());
    }

    [Fact]
    public void An_adapter_that_learnt_to_score_is_a_reward()
    {
        var result = host.Run(Start + """
            $scorer = Import-PeftModel $args[1] -Name scorer -TaskType SEQ_CLS -Label score -DataType float32
            $pairs = @{ prompt = 'One'; chosen = ' two'; rejected = ' nine' } | Import-TrainingDataset
            $judge = $scorer | Invoke-PreferenceTraining (New-LoraConfig -TargetModule q_proj) $pairs -Objective reward -AdapterName judge -MaxSteps 1
            ($args[0] | Invoke-PolicyTraining $config $data $judge -Objective rloo @short).TrainingRecord.Steps[0].Metrics.Keys
            $scorer | Remove-PeftModel
            """, model, PocketLlama);
        Assert.Empty(result.Errors);
        Assert.Contains("rewards/judge/mean", result.Output.Select(static value => value.ToString()));
    }

    [Fact]
    public void Stopping_in_a_reward_ends_the_training_and_leaves_its_checkpoint()
    {
        using var began = new ManualResetEventSlim();
        using var shell = host.Create(Start + """
            $asked = [Collections.Generic.List[int]]::new(); $began = $args[1]
            $args[0] | Invoke-PolicyTraining $config $data { param($prompt, $completion) $asked.Add(1); if ($asked.Count -gt 8) { $began.Set(); while ($true) { } }; 1 } -GroupSize 2 -BatchSize 4 -MaxCompletionLength 3 -MaxSteps 9 -OutputPath out
            """, model, began);
        var invocation = shell.BeginInvoke();
        Assert.True(began.Wait(TimeSpan.FromSeconds(60)), "the third step's answers are rated");
        shell.Stop();
        Assert.Throws<PipelineStoppedException>(() => shell.EndInvoke(invocation));
        Assert.True(SpinWait.SpinUntil(() => Directory.Exists(Path.Combine(folder.FullName, "out", "default", "checkpoints", "step-2")), TimeSpan.FromSeconds(30)));
    }
}
