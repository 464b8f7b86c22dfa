using System.Globalization;
using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.Loader;
using TorchSharp;


namespace Peft.Tests.Engine;

/// <summary>
/// Peft compiles unchanged against TorchSharp and against the assembly over the system's libtorch. Two tests keep it so, whichever of the
/// two was built: the latter has no public member that TorchSharp lacks or spells otherwise, and lacks none that Peft calls.
/// </summary>
public sealed class EngineSignatureTests
{
    private const BindingFlags Declared = BindingFlags.Public | BindingFlags.NonPublic | BindingFlags.Instance | BindingFlags.Static | BindingFlags.DeclaredOnly;

    // The tests' project lays the assembly there where it isn't the engine itself.
    private static readonly string s_other = Path.Combine(AppContext.BaseDirectory, "SystemLibtorch", "TorchSharp.dll");

    [SkippableFact]
    public void Every_public_member_over_the_system_libtorch_is_TorchSharps_own()
    {
        var ours = EngineFacts.IsSystemLibtorch ? typeof(torch).Assembly.Location : s_other;
        var path = EngineFacts.IsSystemLibtorch ? FromCache("TorchSharp") : typeof(torch).Assembly.Location;
        Skip.If(path is null, "TorchSharp's package is not in the NuGet cache");
        var published = Load(path!);

        var strangers = new List<string>();
        foreach (var type in Load(ours).GetExportedTypes())
        {
            var original = published.GetType(type.FullName!);
            if (original is null)
            {
                strangers.Add($"type {type.FullName}");
                continue;
            }

            var known = Members(original).ToHashSet(StringComparer.Ordinal);
            strangers.AddRange(Members(type).Where(member => !known.Contains(member)).Select(member => $"{type.FullName}: {member}"));
        }

        Assert.True(strangers.Count == 0, $"{strangers.Count} members that TorchSharp lacks:\n{string.Join('\n', strangers)}");
    }

    [SkippableFact]
    public void Everything_Peft_calls_exists_over_the_system_libtorch()
    {
        Skip.If(EngineFacts.IsSystemLibtorch, "Peft was compiled against it");
        var missing = new List<string>();
        var peft = Load(typeof(PeftException).Assembly.Location, torchSharp: s_other).ManifestModule;
        foreach (var table in (int[])[0x01000000, 0x0A000000])
        {
            for (var row = 1; TryResolve(peft, table + row, missing); row++)
            {
            }
        }

        Assert.True(missing.Count == 0, $"{missing.Count} things that src/TorchSharp.SystemLibtorch lacks:\n{string.Join('\n', missing)}");
    }

    // False behind the table's last row.
    private static bool TryResolve(System.Reflection.Module module, int token, List<string> missing)
    {
        try
        {
            var member = module.ResolveMember(token);
            Assert.NotSame(typeof(torch).Assembly, member?.Module.Assembly);
        }
        catch (Exception e) when (e is MissingMemberException or TypeLoadException)
        {
            missing.Add(e.Message);
        }
        catch (ArgumentOutOfRangeException)
        {
            return false;
        }
        catch (ArgumentException e) when (e.InnerException is BadImageFormatException)
        {
            // A member of a generic type, which only its user's type arguments complete.
            return true;
        }

        return true;
    }

    private static Assembly Load(string path, string? torchSharp = null)
    {
        var context = new AssemblyLoadContext(path);
        if (torchSharp is not null)
        {
            context.LoadFromAssemblyPath(torchSharp);
        }

        context.Resolving += (loader, name) => FromCache(name.Name!) is string found ? loader.LoadFromAssemblyPath(found) : null;
        return context.LoadFromAssemblyPath(path);
    }

    private static IEnumerable<string> Members(Type type)
    {
        if (type.IsEnum)
        {
            return Enum.GetNames(type).Select(name => $"{name} = {Convert.ToInt64(Enum.Parse(type, name), CultureInfo.InvariantCulture)}");
        }

        // What every object has, and what an interface only makes visible, needs no counterpart.
        var methods = type.GetMethods(Declared).Where(method => IsVisible(method) && method.GetBaseDefinition().DeclaringType != typeof(object));
        return methods.Select(Spell)
            .Concat(type.GetConstructors(Declared).Where(IsVisible).Where(c => c.GetParameters().Length > 0).Select(Spell))
            .Concat(type.GetFields(Declared).Where(field => field.IsPublic).Select(field => $"{Spell(field.FieldType)} {field.Name}"));
    }

    private static bool IsVisible(MethodBase method) => method.IsPublic || method.IsFamily;

    private static string Spell(MethodBase method)
    {
        var result = method is MethodInfo info ? $"{Spell(info.ReturnType)}{TupleNames(info.ReturnParameter)} " : "";
        return $"{(method.IsStatic ? "static " : "")}{result}{method.Name}({string.Join(", ", method.GetParameters().Select(Spell))})";
    }

    private static string Spell(ParameterInfo parameter)
    {
        var prefix = parameter.IsDefined(typeof(ParamArrayAttribute), false) ? "params " : parameter.IsOut ? "out " : "";
        var value = parameter.HasDefaultValue ? $" = {parameter.RawDefaultValue ?? "null"}" : "";
        return $"{prefix}{Spell(parameter.ParameterType)}{TupleNames(parameter)} {parameter.Name}{value}";
    }

    private static string Spell(Type type)
    {
        if (type.HasElementType)
        {
            return Spell(type.GetElementType()!) + (type.IsArray ? $"[{type.GetArrayRank()}]" : "&");
        }

        var name = type.IsGenericParameter ? type.Name : $"{type.DeclaringType?.Name}.{type.Name}";
        return type.IsGenericType ? $"{name}<{string.Join(", ", type.GetGenericArguments().Select(Spell))}>" : name;
    }

    // The names of a tuple's parts are part of what callers write.
    private static string TupleNames(ICustomAttributeProvider provider)
    {
        var names = provider.GetCustomAttributes(typeof(TupleElementNamesAttribute), false).Cast<TupleElementNamesAttribute>().FirstOrDefault();
        return names is null ? "" : $"({string.Join(",", names.TransformNames)})";
    }

    private static string? FromCache(string assembly)
    {
        var cache = Environment.GetEnvironmentVariable("NUGET_PACKAGES")
            ?? Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".nuget", "packages");
        var package = Path.Combine(cache, assembly.ToLowerInvariant());
        return Directory.Exists(package)
            ? Directory.GetFiles(package, $"{assembly}.dll", SearchOption.AllDirectories)
                .Where(path => path.Contains($"{Path.DirectorySeparatorChar}net", StringComparison.Ordinal)
                    && !path.Contains("netstandard", StringComparison.Ordinal))
                .OrderDescending(StringComparer.Ordinal)
                .FirstOrDefault()
            : null;
    }
}
