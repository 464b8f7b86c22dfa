using TorchSharp;
using static TorchSharp.torch;

namespace Peft.Tests;

/// <summary>Tests with a folder and tensors of their own, which are gone afterwards.</summary>
public abstract class TensorFileTests : IDisposable
{
    private readonly DisposeScope _scope = NewDisposeScope();

    private protected TemporaryFolder Folder { get; } = new();

    public void Dispose()
    {
        Dispose(disposing: true);
        GC.SuppressFinalize(this);
    }

    protected virtual void Dispose(bool disposing)
    {
        _scope.Dispose();
        Folder.Dispose();
    }
}
