namespace Peft.Tests.PowerShell;

/// <summary>A reward adapter on the base that another adapter is trained on.</summary>
public sealed class RewardOnBaseTests(ModuleHost host) : CmdletsInFolder(host, import: "-DataType float32")
{
    [Fact]
    public void A_saved_reward_adapter_scores_on_the_same_base_as_on_a_model_of_its_own_and_leaves_no_trace()
    {
        var values = host.Output(
            """
            $judges = Import-PeftModel $args[1] -DataType float32 -TaskType SEQ_CLS -Label score
            $pairs = @{ prompt = 'One'; chosen = ' two'; rejected = ' seven' }, @{ prompt = 'Two'; chosen = ' three'; rejected = ' one' } | Import-TrainingDataset
            $judge = $judges | Invoke-PreferenceTraining (New-LoraConfig -TargetModule q_proj -Rank 2) $pairs -Objective reward -AdapterName judge -MaxSteps 5 -LearningRate 0.05 -OutputPath out
            $prompts = 'One two', 'Two three' | Import-TrainingDataset
            $parameters = $args[0].Base.CountParameters()
            function Rewards($reward, $name) {
                $adapter = $model | Invoke-PolicyTraining (New-LoraConfig -TargetModule q_proj -Rank 2) $prompts $reward -AdapterName $name -GroupSize 2 -BatchSize 4 -MaxCompletionLength 4 -MaxSteps 2 -LearningRate 0.01
                ($adapter.TrainingRecord.Steps | ForEach-Object { $_.Metrics['reward'] }) -join ' '
            }
            $model = $args[0]
            $own = Rewards $judge 'first'
            $shared = Rewards './out/judge' 'second'
            $own -ne '0 0'; $own -eq $shared
            $model.Adapters.Name -join ' '
            $model.Base.CountParameters() -eq $parameters
            $judges | Remove-PeftModel
            """, model, PocketLlama);
        Assert.Equal([true, true, "first second", true], values.Select(static value => value.BaseObject));
    }
}
