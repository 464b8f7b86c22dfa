namespace TorchSharp;

public static partial class torch
{
    /// <summary>TorchScript, which is not here: operators are called through the dispatcher.</summary>
    public static class jit
    {
        /// <exception cref="NotSupportedException">Always.</exception>
        public static CompilationUnit compile(string script) =>
            throw new NotSupportedException("SystemLibtorch has no TorchScript; its operators are called through libtorch's dispatcher.");

        /// <summary>Functions that were compiled: none here.</summary>
        public sealed class CompilationUnit
        {
            private CompilationUnit()
            {
            }

            /// <exception cref="NotSupportedException">Always.</exception>
            public object invoke(string name, params object[] objs) => throw new NotSupportedException(name);
        }
    }
}
