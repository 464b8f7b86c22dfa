using Peft.Models;

namespace Peft.Cmdlets.Arguments;

/// <summary>The folder that a model or an adapter is written to.</summary>
internal static class OutputFolder
{
    private const string OrForce = "Choose another folder, or write over it with -Force.";

    /// <summary>Refuses a folder in which a model would be lost or mixed with another.</summary>
    /// <param name="folder">A folder, which need not be there.</param>
    /// <param name="force">Whether a model there may be written over. A folder with an adapter is refused all the same: the two together would be read as an adapter and its base.</param>
    /// <exception cref="PeftException"><c>OutputExists</c>.</exception>
    public static void RequireFree(string folder, bool force)
    {
        if (ModelFolder.HoldsAdapter(folder))
        {
            throw new PeftException("OutputExists", $"'{folder}' holds an adapter; with a model beside it, the adapter would be laid over that model wherever the folder is loaded.")
            {
                Target = folder,
                RecommendedAction = "Choose another folder.",
            };
        }

        if (!force && ModelFolder.Holding(folder) is { } held)
        {
            throw new PeftException("OutputExists", $"'{folder}' holds a model already, or a part of one: {held}.")
            {
                Target = folder,
                RecommendedAction = OrForce,
            };
        }
    }

    /// <summary>Refuses a folder that holds an adapter, or a whole model that the adapter would be laid over wherever the folder is loaded.</summary>
    /// <param name="folder">A folder, which need not be there.</param>
    /// <param name="force">Whether an adapter there may be written over, or stand beside a model.</param>
    /// <exception cref="PeftException"><c>OutputExists</c>.</exception>
    public static void RequireFreeOfAdapters(string folder, bool force)
    {
        if (force)
        {
            return;
        }

        if (ModelFolder.HoldsAdapter(folder))
        {
            throw new PeftException("OutputExists", $"'{folder}' holds an adapter already.") { Target = folder, RecommendedAction = OrForce };
        }

        if (File.Exists(Path.Combine(folder, "config.json")))
        {
            throw new PeftException("OutputExists", $"'{folder}' holds a model, which this adapter would be laid over wherever the folder is loaded.") { Target = folder, RecommendedAction = OrForce };
        }
    }
}
