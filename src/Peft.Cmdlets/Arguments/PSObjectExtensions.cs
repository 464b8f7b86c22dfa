using System.Management.Automation;

namespace Peft.Cmdlets.Arguments;

/// <summary>PowerShell hands values over bare or wrapped.</summary>
internal static class PSObjectExtensions
{
    /// <summary>The value itself.</summary>
    public static object? Unwrap(this object? value) => value is PSObject wrapped ? wrapped.BaseObject : value;
}
