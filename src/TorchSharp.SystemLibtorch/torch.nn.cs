using TorchSharp.Modules;

namespace TorchSharp;

public static partial class torch
{
    /// <summary>Layers' arithmetic. The modules themselves are not here: Peft has its own.</summary>
    public static partial class nn
    {
        /// <summary>How a loss comes from the losses of single elements.</summary>
        public enum Reduction
        {
            None = 0,
            Mean = 1,
            Sum = 2,
        }

        public static Parameter Parameter(Tensor data, bool requires_grad = true) => new(data, requires_grad);
    }
}
