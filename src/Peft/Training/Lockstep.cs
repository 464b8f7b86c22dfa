using Peft.Engine;
using static TorchSharp.torch;

namespace Peft.Training;

/// <summary>
/// Leads trainings from beginning to end: one alone, or several adapters of one model side by side, a step of each in turn, so that they can share passes
/// (<see cref="StepPasses"/>). What one of them sees is what it would see alone.
/// </summary>
/// <param name="loops">The trainings, all of one model.</param>
internal sealed class Lockstep(IReadOnlyList<TrainingLoop> loops)
{
    private TrainingLoop? _current;

    /// <summary>Runs all of them to their ends. An error of one ends all, each with the checkpoint of its last whole step.</summary>
    public void Run()
    {
        foreach (var loop in loops)
        {
            loop.Begin();
        }

        using var kept = ComputeThreads.Keep(loops[0].Compute.Threads);
        try
        {
            foreach (var loop in loops)
            {
                _current = loop;
                loop.Start();
            }

            while (loops.Where(static loop => !loop.IsOver).ToArray() is { Length: > 0 } open)
            {
                MakeStep(open);
            }
        }
        catch (Exception error)
        {
            foreach (var loop in loops)
            {
                loop.Stop(error, loop == _current);
            }

            if (EngineErrors.IsOutOfMemory(error))
            {
                throw EngineErrors.OutOfMemory(error);
            }

            throw;
        }

        foreach (var loop in loops)
        {
            loop.Complete();
        }
    }

    private void MakeStep(TrainingLoop[] open)
    {
        using var scope = NewDisposeScope();
        List<OpenStep> steps = [];
        try
        {
            foreach (var loop in open)
            {
                _current = loop;
                using var clock = loop.Measured();
                steps.Add(loop.Open());
            }

            StepPasses.Run(steps);
            foreach (var step in steps)
            {
                _current = step.Loop;
                using var clock = step.Loop.Measured();
                step.Loop.Close(step);
            }
        }
        finally
        {
            steps.ForEach(static step => step.Dispose());
        }
    }
}
