using static TorchSharp.torch;

namespace Peft.Training.Optimizers;

/// <summary>
/// Changes the weights after the gradients are there. Most work element by element on the flat buffers, a slice of equally trained
/// parameters at a time; those that look at a parameter's shape go through <see cref="FlatParameters.Entries"/>.
/// </summary>
public abstract class Optimizer : IDisposable
{
    private readonly Dictionary<string, Tensor> _state = new(StringComparer.Ordinal);

    /// <summary>Takes over the parameters.</summary>
    protected Optimizer(FlatParameters parameters)
    {
        Parameters = parameters;
    }

    /// <summary>What is trained; disposed with the optimiser.</summary>
    public FlatParameters Parameters { get; }

    /// <summary>Number of steps made.</summary>
    public int StepCount { get; private set; }

    /// <summary>The optimiser's memory by name, for a checkpoint. The tensors stay the optimiser's.</summary>
    public IReadOnlyDictionary<string, Tensor> State => _state;

    /// <summary>Makes one step with the gradients that are in the buffer.</summary>
    /// <param name="factor">What the schedule multiplies every group's rate by.</param>
    public void Step(double factor)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        StepCount++;
        Update(factor);
        Parameters.MarkChanged();
    }

    /// <summary>The rates of the groups under a factor of the schedule.</summary>
    public virtual IReadOnlyList<double> Rates(double factor) => [.. Parameters.Groups.Select(group => group.Settings.Rate * factor)];

    /// <summary>The weights are those to evaluate with until what is returned is disposed; null where they are anyway.</summary>
    public virtual IDisposable? Evaluating() => null;

    /// <summary>The weights become those to go on with when no step follows.</summary>
    public virtual void Finish()
    {
    }

    /// <summary>Takes up what a checkpoint held.</summary>
    /// <param name="steps">Number of steps made.</param>
    /// <param name="stored">The optimiser's memory by name.</param>
    /// <exception cref="PeftException"><c>CheckpointMismatch</c>: it is another optimiser's, or for other parameters.</exception>
    public void Load(int steps, IReadOnlyDictionary<string, Tensor> stored)
    {
        using var noGrad = no_grad();
        foreach (var (name, tensor) in _state)
        {
            if (!stored.TryGetValue(name, out var given) || given.numel() != tensor.numel())
            {
                throw new PeftException("CheckpointMismatch", $"The checkpoint has no fitting '{name}' for this optimiser.")
                {
                    Target = name,
                    RecommendedAction = "Give the optimiser and the adapter that the training began with, or start anew without resuming.",
                };
            }

            tensor.copy_(given.view(tensor.shape));
        }

        StepCount = steps;
    }

    /// <summary>Goes on for an optimiser of the same kind that trained other parameters: what it remembers of those that both have, and its steps.</summary>
    /// <param name="before">The optimiser; it may have let its parameters go.</param>
    public void TakeOver(Optimizer before)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        var entries = before.Parameters.Entries.ToDictionary(static entry => entry.Trained.Name, StringComparer.Ordinal);
        foreach (var (name, tensor) in _state.Where(own => before._state.ContainsKey(own.Key)))
        {
            var from = before._state[name];
            var isFlat = tensor.numel() == Parameters.Count && from.numel() == before.Parameters.Count;
            if (!isFlat && from.shape.SequenceEqual(tensor.shape))
            {
                tensor.copy_(from);
            }

            foreach (var entry in isFlat ? Parameters.Entries : [])
            {
                var count = entry.Trained.Parameter.Count;
                if (entries.TryGetValue(entry.Trained.Name, out var earlier) && earlier.Trained.Parameter.Count == count)
                {
                    tensor.narrow(0, entry.Offset, count).copy_(from.narrow(0, earlier.Offset, count));
                }
            }
        }

        StepCount = before.StepCount;
    }

    /// <summary>Gives each parameter a tensor of its own again before the optimiser itself is disposed.</summary>
    public void ReleaseParameters() => Parameters.Dispose();

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var tensor in _state.Values)
        {
            tensor.Dispose();
        }

        _state.Clear();
        Release();
        Parameters.Dispose();
        GC.SuppressFinalize(this);
    }

    /// <summary>Changes the weights. Runs without autograd in a dispose scope.</summary>
    protected virtual void Update(double factor)
    {
        foreach (var group in Parameters.Groups)
        {
            Update(new ParameterSlice(this, group), group.Settings.Rate * factor, group.Settings.WeightDecay);
        }
    }

    /// <summary>Changes the weights of one slice of the buffers.</summary>
    /// <param name="slice">The slice.</param>
    /// <param name="rate">Its learning rate in this step.</param>
    /// <param name="weightDecay">Its weight decay.</param>
    protected abstract void Update(ParameterSlice slice, double rate, double weightDecay);

    /// <summary>Frees what an optimiser has beside what it remembers.</summary>
    protected virtual void Release()
    {
    }

    /// <summary>Makes a tensor that the optimiser remembers between steps and that goes into checkpoints.</summary>
    /// <param name="name">A name of its own.</param>
    /// <param name="initial">Value of all elements.</param>
    /// <param name="shape">Sizes; without them those of the flat buffers.</param>
    protected Tensor Remember(string name, double initial = 0, params long[] shape)
    {
        var tensor = full(shape.Length == 0 ? [Parameters.Count] : shape, initial, ScalarType.Float32, Parameters.Values.device);
        _state.Add(name, tensor.DetachFromDisposeScope());
        return tensor;
    }

    /// <summary>As the other, of a type and on a device of its own, beginning with zeros.</summary>
    /// <param name="name">A name of its own.</param>
    /// <param name="type">Type of the elements.</param>
    /// <param name="device">Where it lies.</param>
    /// <param name="count">Number of elements.</param>
    protected void Remember(string name, ScalarType type, Device device, long count) =>
        _state.Add(name, zeros([count], type, device).DetachFromDisposeScope());

    /// <summary>One slice of the buffers as an optimiser sees it.</summary>
    protected readonly struct ParameterSlice
    {
        private readonly ParameterGroup _group;

        internal ParameterSlice(Optimizer optimizer, ParameterGroup group)
        {
            _group = group;
            Value = Of(optimizer.Parameters.Values);
            Gradient = Of(optimizer.Parameters.Gradients);
        }

        /// <summary>Weights, a view.</summary>
        public Tensor Value { get; }

        /// <summary>Gradients, a view; the optimiser may overwrite it.</summary>
        public Tensor Gradient { get; }

        /// <summary>The same slice of another flat tensor, a view.</summary>
        public Tensor Of(Tensor flat) => flat.narrow(0, _group.Offset, _group.Count);
    }
}
