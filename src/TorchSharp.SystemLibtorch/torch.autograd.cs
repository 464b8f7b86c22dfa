namespace TorchSharp;

public static partial class torch
{
    public static bool is_grad_enabled() => Native.peft_grad_enabled() != 0;

    public static bool is_inference_mode_enabled() => Native.peft_inference_mode_enabled() != 0;

    public static IDisposable no_grad() => new GradMode(false);

    public static IDisposable enable_grad(bool enabled = true) => new GradMode(enabled);

    public static IDisposable set_grad_enabled(bool mode = true) => new GradMode(mode);

    public static IDisposable inference_mode(bool mode = true) => new InferenceMode(mode);

    private static nint[] Handles(IList<Tensor>? tensors) => tensors?.Select(tensor => tensor.Handle).ToArray() ?? [];

    /// <summary>Gradients of tensors with respect to tensors.</summary>
    public static class autograd
    {
        /// <summary>The gradients of the outputs' sum, weighted by <paramref name="grad_outputs"/>. An unused input's gradient is an invalid tensor.</summary>
        public static unsafe IList<Tensor> grad(
            IList<Tensor> outputs, IList<Tensor> inputs, IList<Tensor>? grad_outputs = null, bool retain_graph = false, bool create_graph = false, bool allow_unused = false)
        {
            nint[] outs = Handles(outputs), ins = Handles(inputs), grads = Handles(grad_outputs), results = new nint[ins.Length];
            fixed (nint* o = outs, i = ins, g = grads, r = results)
            {
                Native.Check(Native.peft_gradients(
                    o, outs.Length, i, ins.Length, g, grads.Length, Flag(retain_graph), Flag(create_graph), Flag(allow_unused), r));
            }

            Keep(outputs, inputs, grad_outputs);
            return results.Select(handle => new Tensor(handle)).ToList();
        }

        public static unsafe void backward(
            IList<Tensor> tensors, IList<Tensor>? grad_tensors = null, bool? retain_graph = null, bool create_graph = false, IList<Tensor>? inputs = null)
        {
            nint[] roots = Handles(tensors), grads = Handles(grad_tensors), ins = Handles(inputs);
            fixed (nint* t = roots, g = grads, i = ins)
            {
                Native.Check(Native.peft_backward(
                    t, roots.Length, g, grads.Length, Flag(retain_graph ?? create_graph), Flag(create_graph), i, ins.Length));
            }

            Keep(tensors, grad_tensors, inputs);
        }

        public static void backward(
            Tensor tensor, IList<Tensor>? grad_tensors = null, bool? retain_graph = null, bool create_graph = false, IList<Tensor>? inputs = null) =>
            backward([tensor], grad_tensors, retain_graph, create_graph, inputs);

        public static void backward(
            Tensor tensor, Tensor grad_tensor, bool? retain_graph = null, bool create_graph = false, IList<Tensor>? inputs = null) =>
            backward([tensor], [grad_tensor], retain_graph, create_graph, inputs);

        private static int Flag(bool value) => value ? 1 : 0;

        // The handles were taken out of their objects, which must not be finalised before the native call is over.
        private static void Keep(IList<Tensor>? a, IList<Tensor>? b, IList<Tensor>? c)
        {
            GC.KeepAlive(a);
            GC.KeepAlive(b);
            GC.KeepAlive(c);
        }
    }

    private sealed class GradMode : IDisposable
    {
        private readonly bool _before = is_grad_enabled();

        public GradMode(bool enabled) => Native.peft_set_grad_enabled(enabled ? 1 : 0);

        public void Dispose() => Native.peft_set_grad_enabled(_before ? 1 : 0);
    }

    private sealed class InferenceMode(bool enabled) : IDisposable
    {
        private nint _guard = Native.Check(Native.peft_enter_inference_mode(enabled ? 1 : 0));

        public void Dispose()
        {
            if (_guard != 0)
            {
                Native.peft_leave_inference_mode(_guard);
                _guard = 0;
            }
        }
    }
}
