namespace Peft.Tests.Adapters;

/// <summary>The weights of a model bit for bit, to tell whether anything changed.</summary>
internal static class ModelBits
{
    public static Dictionary<string, string> Of(Peft.Models.Module model) => model.NamedParameters()
        .ToDictionary(static named => named.Path, static named => Convert.ToHexString(named.Parameter.Data.contiguous().cpu().bytes));
}
