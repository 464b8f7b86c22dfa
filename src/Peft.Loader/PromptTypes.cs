using System.Management.Automation;
using System.Reflection;

namespace Peft.Loader;

/// <summary>The types whose names a user may have to write: what cmdlets take and return, and what the properties of that hold.</summary>
internal static class PromptTypes
{
    /// <summary>Finds them.</summary>
    /// <param name="cmdlets">The assembly of the cmdlets.</param>
    /// <param name="library">The assembly of what they work on.</param>
    public static IReadOnlyCollection<Type> Of(Assembly cmdlets, Assembly library)
    {
        var exported = cmdlets.GetExportedTypes().Concat(library.GetExportedTypes()).Where(static type => !type.ContainsGenericParameters).ToHashSet();
        HashSet<Type> named = [];
        foreach (var cmdlet in exported.Where(static type => type.GetCustomAttribute<CmdletAttribute>() is not null))
        {
            named.UnionWith(cmdlet.GetProperties().Where(static property => property.IsDefined(typeof(ParameterAttribute))).Select(static property => Element(property.PropertyType)));
            named.UnionWith(cmdlet.GetCustomAttributes<OutputTypeAttribute>().SelectMany(static output => output.Type).Select(static output => Element(output.Type)));
        }

        named.IntersectWith(exported);

        // A parameter of an abstract type takes what derives from it, and a property holds what isn't returned by itself.
        named.UnionWith(exported.Where(type => named.Any(other => other.IsAbstract && type.IsSubclassOf(other))).ToArray());
        named.UnionWith(named.SelectMany(static type => type.GetProperties()).Select(static property => Element(property.PropertyType)).Where(exported.Contains).ToArray());
        return named;
    }

    /// <summary>The type of a value, or of the entries of an array, a list or a nullable.</summary>
    private static Type Element(Type type) => type.GetElementType()
        ?? (type.IsGenericType && type.GetGenericArguments() is [var only] ? only : type);
}
