using static TorchSharp.torch;

namespace Peft.Models.Placement;

/// <summary>
/// Which weights of a model that doesn't fit on the device that computes are there at a time: those of one block, while the system reads those of the next.
/// Used by one thread at a time, as the model is.
/// </summary>
internal sealed class Residency : IDisposable
{
    private readonly List<BlockResidence> _blocks = [];
    private readonly Parameter[] _loose;
    private readonly IDisposable _files;
    private const int None = -1;
    private Task _ahead = Task.CompletedTask;
    private int _wanted = None;
    private int _last = -1;

    /// <param name="model">A model whose weights are placed.</param>
    /// <param name="map">Where they lie.</param>
    /// <param name="computing">The device that computes.</param>
    /// <param name="files">Disposed of behind the weights: files made for them.</param>
    public Residency(PretrainedModel model, DeviceMap map, Device computing, IDisposable files)
    {
        Map = map;
        Computing = computing;
        _files = files;
        var offloaded = model.NamedWeights().Where(static named => named.Parameter is { IsOwner: true, Offloaded: not null }).ToList();
        foreach (var block in model.Descendants().Where(DeviceMapPlanner.IsBlock).ToArray())
        {
            var own = block.NamedWeights().Select(static named => named.Parameter).Where(static parameter => parameter is { IsOwner: true, Offloaded: not null }).ToArray();
            if (own.Length > 0)
            {
                block.Residence = new BlockResidence(this, _blocks.Count, own);
                _blocks.Add(block.Residence);
                offloaded.RemoveAll(named => own.Contains(named.Parameter));
            }
        }

        _loose = [.. offloaded.Select(static named => named.Parameter)];
    }

    /// <summary>Where modules lie.</summary>
    public DeviceMap Map { get; }

    /// <summary>The device that computes.</summary>
    public Device Computing { get; }

    /// <summary>A block begins: what stands outside of blocks has been used, and the next one is read meanwhile.</summary>
    internal void Begin(int block)
    {
        DropLoose();
        var step = block == _last - 1 ? -1 : 1;
        _last = block;
        var next = block + step == _blocks.Count ? 0 : block + step;
        if (next >= 0 && next != block)
        {
            // Where the disk is slower than the computing, only the block that is wanted last is read ahead: those before it have been read by then.
            Interlocked.Exchange(ref _wanted, next);
            if (_ahead.IsCompleted)
            {
                _ahead = Task.Run(ReadWanted);
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _ahead.Wait();
        _files.Dispose();
    }

    private void ReadWanted()
    {
        for (int block; (block = Interlocked.Exchange(ref _wanted, None)) != None;)
        {
            _blocks[block].ReadAhead();
        }
    }

    private void DropLoose()
    {
        foreach (var parameter in _loose)
        {
            parameter.Offloaded?.Drop();
        }
    }
}

/// <summary>The offloaded weights of a block.</summary>
internal sealed class BlockResidence(Residency residency, int index, IReadOnlyList<Parameter> parameters)
{
    private int _stays;

    /// <summary>Brings the weights to where they are computed with, until what comes back is disposed.</summary>
    public IDisposable Enter()
    {
        var stay = new Stay(this);
        try
        {
            if (_stays++ == 0)
            {
                residency.Begin(index);
                foreach (var parameter in parameters)
                {
                    parameter.Offloaded?.Enter();
                }
            }

            return stay;
        }
        catch
        {
            // There may be no room for all of them.
            stay.Dispose();
            throw;
        }
    }

    /// <summary>Has the system read the weights; from any thread.</summary>
    public void ReadAhead()
    {
        foreach (var parameter in parameters)
        {
            parameter.Offloaded?.ReadAhead();
        }
    }

    private sealed class Stay(BlockResidence block) : IDisposable
    {
        private BlockResidence? _block = block;

        public void Dispose()
        {
            if (_block is { } left && --left._stays == 0)
            {
                foreach (var parameter in left.Parameters)
                {
                    parameter.Offloaded?.Leave();
                }
            }

            _block = null;
        }
    }

    private IReadOnlyList<Parameter> Parameters => parameters;
}
