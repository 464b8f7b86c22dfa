namespace Peft.Tests.Build;

/// <summary>Tests that build projects, one after the other and beside no other test.</summary>
[CollectionDefinition(nameof(BuildCollection), DisableParallelization = true)]
public sealed class BuildCollection;
