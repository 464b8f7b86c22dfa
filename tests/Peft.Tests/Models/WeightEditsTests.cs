using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

/// <summary>Edits of weights come back bit for bit, in whatever order they are taken back.</summary>
public class WeightEditsTests
{
    [Theory]
    [InlineData(0, 1, 2)]
    [InlineData(2, 1, 0)]
    [InlineData(1, 0, 2)]
    [InlineData(1, 2, 0)]
    public void Edits_are_taken_back_in_any_order(int first, int second, int third)
    {
        using var scope = NewDisposeScope();
        var parameter = new Parameter("weight", [4, 5]);
        parameter.Assign(randn(4, 5));
        var loaded = parameter.Data.clone();
        Func<Tensor, Tensor>[] changes = [static weight => weight * 3.7, static weight => weight.to(ScalarType.BFloat16), static weight => weight + 0.3];
        WeightEdits[] edits = [new(), new(), new()];
        for (var i = 0; i < edits.Length; i++)
        {
            edits[i].Edit(parameter, changes[i]);
        }

        List<int> left = [0, 1, 2];
        foreach (var taken in new[] { first, second, third })
        {
            edits[taken].Undo();
            left.Remove(taken);
            var expected = left.Aggregate(loaded, (weight, index) => changes[index](weight));
            Assert.Equal(expected.dtype, parameter.DataType);
            Assert.True(expected.equal(parameter.Data).all().item<bool>(), $"after {taken} was taken back");
        }
    }

    [Fact]
    public void A_weight_is_edited_in_place_so_that_views_of_it_stay_valid()
    {
        using var scope = NewDisposeScope();
        var parameter = new Parameter("weight", [3]);
        parameter.Assign(ones(3));
        var view = parameter.Data.narrow(0, 1, 2);
        var edits = new WeightEdits();
        edits.Edit(parameter, static weight => weight + 1);
        Assert.Equal([2f, 2f], view.data<float>().ToArray());
        edits.Undo();
        Assert.Equal([1f, 1f], view.data<float>().ToArray());
    }

    [Fact]
    public void A_parameter_that_shares_weights_gets_its_own_while_it_is_edited()
    {
        using var scope = NewDisposeScope();
        Parameter owner = new("weight", [3]), follower = new("weight", [3]);
        owner.Assign(ones(3));
        follower.TieTo(owner);
        var edits = new WeightEdits();
        edits.Edit(follower, static weight => weight * 2);
        Assert.Equal([2f, 2f, 2f], follower.Data.data<float>().ToArray());
        Assert.Equal([1f, 1f, 1f], owner.Data.data<float>().ToArray());
        edits.Undo();
        Assert.Same(owner, follower.TiedTo);
    }

    [Fact]
    public void An_edit_that_fails_leaves_the_weight_as_it_was()
    {
        using var scope = NewDisposeScope();
        Parameter owner = new("weight", [3]), follower = new("weight", [3]);
        owner.Assign(ones(3));
        follower.TieTo(owner);
        Assert.Throws<InvalidOperationException>(() => new WeightEdits().Edit(follower, static _ => throw new InvalidOperationException()));
        Assert.Same(owner, follower.TiedTo);
    }

    [Fact]
    public void What_is_kept_can_not_be_taken_back()
    {
        using var scope = NewDisposeScope();
        var parameter = new Parameter("weight", [2]);
        parameter.Assign(ones(2));
        var edits = new WeightEdits();
        edits.Edit(parameter, static weight => weight + 1);
        edits.Keep();
        edits.Undo();
        Assert.Equal([2f, 2f], parameter.Data.data<float>().ToArray());
    }
}
