using System.Management.Automation;
using System.Reflection;

namespace Peft.Loader;

/// <summary>What the root module script calls: loads the cmdlets once a process and makes their types known to PowerShell.</summary>
public static class ModuleLoader
{
    private static readonly Lock s_gate = new();
    private static Assembly? s_cmdlets;

    /// <summary>Loads the assembly of the cmdlets into its own load context, or returns the one that is loaded.</summary>
    /// <returns>The assembly for <c>Import-Module -Assembly</c>.</returns>
    public static Assembly Load()
    {
        lock (s_gate)
        {
            if (s_cmdlets is null)
            {
                if (OperatingSystem.IsWindows())
                {
                    VisualCppRuntime.Require(VisualCppRuntime.Loads);
                }

                var folder = Path.Combine(Path.GetDirectoryName(typeof(ModuleLoader).Assembly.Location)!, "lib");
                var context = new ModuleLoadContext(Path.Combine(folder, "Peft.Cmdlets.dll"));
                var assembly = context.LoadFromAssemblyName(new AssemblyName("Peft.Cmdlets"));
                AddTypeNames(PromptTypes.Of(assembly, context.LoadFromAssemblyName(new AssemblyName("Peft"))));
                s_cmdlets = assembly;
            }

            return s_cmdlets;
        }
    }

    /// <summary>
    /// PowerShell looks for types in the default load context only, so <c>[Peft.Adapters.Model.PeftModel]</c> would not resolve at the prompt
    /// and a mock, which declares the parameters again by their types' names, would not compile. A type accelerator is looked up first.
    /// </summary>
    private static void AddTypeNames(IEnumerable<Type> types)
    {
        var accelerators = typeof(PSObject).Assembly.GetType("System.Management.Automation.TypeAccelerators", throwOnError: true)!;
        var add = accelerators.GetMethod("Add", [typeof(string), typeof(Type)])!.CreateDelegate<Action<string, Type>>();
        foreach (var type in types)
        {
            add(type.FullName!, type);
        }
    }
}
