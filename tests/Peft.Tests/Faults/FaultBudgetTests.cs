namespace Peft.Tests.Faults;

public sealed class FaultBudgetTests
{
    [Fact]
    public void ATrialThatFailsSaysTheSeedThatRepeatsIt()
    {
        var trials = 0;
        var failure = Assert.ThrowsAny<Exception>(() => FaultBudget.Run(random =>
        {
            Assert.Equal(new Random(FaultBudget.Seed + trials).Next(), random.Next());
            Assert.True(++trials < 3);
        }));
        Assert.Contains($"PEFT_FAULT_SEED={FaultBudget.Seed + trials - 1}", failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void CasesAreEachTriedOnceInAnyOrder()
    {
        var tried = new List<string>();
        FaultBudget.Run(["a", "b", "c"], tried.Add);
        Assert.Equal(["a", "b", "c"], tried.Order());
    }
}
