using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Training;

/// <summary>Both passes over the micro batches of open steps: each for itself, or several trainings' in one pass over the base where that is faster.</summary>
internal static class StepPasses
{
    /// <summary>The most positions of a shared pass. Up to here reading the base's weights takes much of a pass's time; beyond it the arithmetic does, and passes of their own need less memory.</summary>
    public const long MostShared = 512;

    /// <summary>Brings the gradients, and the losses of the micro batches.</summary>
    /// <param name="steps">One step of each training.</param>
    public static void Run(IReadOnlyList<OpenStep> steps)
    {
        OpenStep[] sharing = steps.Count > 1 ? [.. steps.Where(static step => step.Loop.SharesPasses)] : [];
        foreach (var step in steps.Except(sharing))
        {
            using var clock = step.Loop.Measured();
            RunAlone(step);
        }

        if (sharing.Length > 0)
        {
            RunTogether(sharing);
        }
    }

    /// <summary>A training by itself; again where float16 was too small for the gradients.</summary>
    private static void RunAlone(OpenStep step)
    {
        var loop = step.Loop;
        do
        {
            step.Metrics.Clear();
            Begin(step);
            for (var micro = 0; micro < step.Batches.Count; micro++)
            {
                Accumulate(step, micro);
            }
        }
        while (!loop.Scale.Takes(loop.Optimizer.Parameters.Gradients));
        loop.Optimizer.Parameters.FreeLowered();
    }

    private static void RunTogether(OpenStep[] steps)
    {
        Array.ForEach(steps, Begin);
        for (var micro = 0; steps.Any(step => micro < step.Batches.Count); micro++)
        {
            foreach (var alike in steps.Where(step => micro < step.Batches.Count).GroupBy(static step => step.Loop.Context.Checkpointing))
            {
                List<PassShare> waiting = [];
                foreach (var share in alike.Select(step => new PassShare(step, micro)))
                {
                    if (waiting.Sum(static other => other.Count) + share.Count > MostShared)
                    {
                        RunShared(waiting);
                        waiting.Clear();
                    }

                    waiting.Add(share);
                }

                RunShared(waiting);
            }
        }

        Array.ForEach(steps, static step => step.Loop.Optimizer.Parameters.FreeLowered());
    }

    private static void RunShared(List<PassShare> shares)
    {
        if (shares.Count == 0)
        {
            return;
        }

        IDisposable[] clocks = [.. shares.Select(static share => share.Step.Loop.Measured())];
        if (shares is [var only])
        {
            Accumulate(only.Step, only.Micro);
        }
        else
        {
            SharedPass.Run(shares);
        }

        Array.ForEach(clocks, static clock => clock.Dispose());
    }

    private static void Begin(OpenStep step)
    {
        step.Loop.Optimizer.Parameters.Lower(step.Loop.Request.Model.DataType);
        step.Loop.Optimizer.Parameters.Gradients.zero_();
    }

    /// <summary>Adds the gradients of a micro batch.</summary>
    private static void Accumulate(OpenStep step, int micro)
    {
        var loop = step.Loop;
        var generator = loop.GeneratorOf(micro);
        using var scope = NewDisposeScope();
        using var tape = new Tape();
        var loss = loop.Loss(step.Batches[micro], step.Divisor, loop.Context with { Generator = generator, Tape = tape, IsTraining = true }, step.Metrics);
        tape.Backward(loss, loop.Scale.Gradient(loss), loop.Context.Cancellation);
        step.Losses[micro] = loss.MoveToOuterDisposeScope();
    }
}
