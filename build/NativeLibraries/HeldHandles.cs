using Mono.Cecil;
using Mono.Cecil.Cil;
using Mono.Cecil.Rocks;

namespace Peft.Build;

/// <summary>
/// A copy of TorchSharp's managed library that keeps what it works with. TorchSharp hands the handle of a tensor or a number to native code
/// and doesn't hold the object meanwhile: one that is used for the last time there (a number that was converted implicitly, even the 1 by
/// which <c>a + b</c> multiplies b) may be finalised by a collection that another thread brings about, and its memory read after it is freed.
/// </summary>
internal static class HeldHandles
{
    /// <summary>Writes a copy in which every method that calls native code keeps its finalisable arguments and variables alive until it returns.</summary>
    /// <exception cref="InvalidDataException">It is no .NET assembly, or calls no native code.</exception>
    public static void Copy(string source, string target)
    {
        ModuleDefinition module;
        try
        {
            module = ModuleDefinition.ReadModule(source);
        }
        catch (BadImageFormatException error)
        {
            throw new InvalidDataException($"{Path.GetFileName(source)} is no .NET assembly.", error);
        }

        using (module)
        {
            var collector = module.GetTypeReferences().FirstOrDefault(static type => type.FullName == "System.GC")
                ?? throw new InvalidDataException($"{Path.GetFileName(source)} has nothing to finalise.");
            var keepAlive = new MethodReference("KeepAlive", module.TypeSystem.Void, collector) { Parameters = { new ParameterDefinition(module.TypeSystem.Object) } };
            foreach (var method in module.GetTypes().SelectMany(static type => type.Methods).Where(CallsNative))
            {
                Keep(method, keepAlive);
            }

            var temporary = $"{target}.{Environment.ProcessId}.tmp";
            Directory.CreateDirectory(Path.GetDirectoryName(Path.GetFullPath(target))!);
            module.Write(temporary);
            File.Move(temporary, target, overwrite: true);
        }
    }

    private static bool CallsNative(MethodDefinition method) => method.HasBody && method.Body.Instructions.Any(static instruction =>
        instruction.OpCode == OpCodes.Call && instruction.Operand is MethodDefinition { IsPInvokeImpl: true });

    private static void Keep(MethodDefinition method, MethodReference keepAlive)
    {
        var body = method.Body;
        KeepPassing(body);
        Instruction[] loads =
        [
            .. method.HasThis && HasFinaliser(method.DeclaringType) ? [Instruction.Create(OpCodes.Ldarg, body.ThisParameter)] : (Instruction[])[],
            .. method.Parameters.Where(static parameter => HasFinaliser(parameter.ParameterType)).Select(static parameter => Instruction.Create(OpCodes.Ldarg, parameter)),
            .. body.Variables.Where(static variable => HasFinaliser(variable.VariableType)).Select(static variable => Instruction.Create(OpCodes.Ldloc, variable)),
        ];
        if (loads.Length == 0)
        {
            return;
        }

        body.SimplifyMacros();
        foreach (var end in body.Instructions.Where(static instruction => instruction.OpCode == OpCodes.Ret).ToArray())
        {
            // The first takes the place of the return, so that what branches there keeps them too.
            (end.OpCode, end.Operand) = (loads[0].OpCode, loads[0].Operand);
            var at = body.Instructions.IndexOf(end) + 1;
            foreach (var load in loads.Skip(1))
            {
                body.Instructions.Insert(at++, Instruction.Create(OpCodes.Call, keepAlive));
                body.Instructions.Insert(at++, Again(load));
            }

            body.Instructions.Insert(at++, Instruction.Create(OpCodes.Call, keepAlive));
            body.Instructions.Insert(at, Instruction.Create(OpCodes.Ret));
        }

        body.OptimizeMacros();
    }

    /// <summary>Puts into variables what is made only to hand its handle on.</summary>
    private static void KeepPassing(MethodBody body)
    {
        foreach (var use in body.Instructions.Where(static instruction => instruction.Operand is MethodReference { Name: "get_Handle" }).ToArray())
        {
            if (use.Previous is { Operand: MethodDefinition { IsConstructor: false } made } && HasFinaliser(made.ReturnType))
            {
                var kept = new VariableDefinition(made.ReturnType);
                body.Variables.Add(kept);
                var at = body.Instructions.IndexOf(use);
                body.Instructions.Insert(at, Instruction.Create(OpCodes.Dup));
                body.Instructions.Insert(at + 1, Instruction.Create(OpCodes.Stloc, kept));
            }
        }
    }

    private static Instruction Again(Instruction load) =>
        load.Operand is ParameterDefinition parameter ? Instruction.Create(load.OpCode, parameter) : Instruction.Create(load.OpCode, (VariableDefinition)load.Operand);

    private static bool HasFinaliser(TypeReference type)
    {
        for (var current = type as TypeDefinition; current is not null; current = current.BaseType as TypeDefinition)
        {
            if (current.Methods.Any(static method => method is { Name: "Finalize", IsVirtual: true, HasParameters: false }))
            {
                return true;
            }
        }

        return false;
    }
}
