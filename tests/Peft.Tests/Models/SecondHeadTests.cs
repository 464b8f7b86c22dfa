using Peft.Adapters.Methods.Lora;
using Peft.Adapters.Targets;
using Peft.Models;
using Peft.Models.Heads;
using Peft.Models.Layers;
using Peft.Tests.Adapters;
using static TorchSharp.torch;

namespace Peft.Tests.Models;

public class SecondHeadTests
{
    [Fact]
    public void A_reward_beside_the_next_token_is_trained_with_it_and_saved_with_the_adapter()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var folder = new TemporaryFolder();
        using var model = TinyLlama.Create();
        var head = Head(model);
        var adapter = model.AddAdapter(new LoraConfig { Rank = 2, TargetModules = ModuleNames.Of("v_proj"), ModulesToSave = ["reward"] }, "both", 1).Perturb(2);
        var ids = TinyLlama.Inputs()["input_ids"];
        foreach (var parameter in adapter.TrainableParameters)
        {
            parameter.Parameter.Data.requires_grad_(true);
            parameter.Parameter.Gradient = zeros_like(parameter.Parameter.Data).requires_grad_(false);
        }

        using (var tape = new Tape())
        {
            var pass = model.NewPass(new ForwardContext { Tape = tape });
            var output = model.Base.Forward(ids, pass);
            var scores = head.Scores(output, pass);
            Assert.Equal([2, 1], scores.shape);
            var reward = tape.Autograd(static given => given[0].square().mean(), [scores], []);
            tape.Backward(ResidualSum.Forward(((CausalModel)model.Base).Loss(output, ids, null, pass), reward, pass));
        }

        Assert.All(adapter.TrainableParameters, static entry => Assert.True(entry.Parameter.Gradient!.abs().max().item<float>() > 0));
        var own = head.Scores(model.Base.Forward(ids, model.NewPass(new ForwardContext())), model.NewPass(new ForwardContext()));
        model.SaveAdapter("both", folder.Path);

        using var other = TinyLlama.Create();
        var again = Head(other);
        other.LoadAdapter(folder.Path, "both");
        var theirs = again.Scores(other.Base.Forward(ids, other.NewPass(new ForwardContext())), other.NewPass(new ForwardContext()));
        Assert.True(own.sub(theirs).abs().max().item<float>() < 1e-6);
        Assert.Equal("HeadNameTaken", Assert.Throws<PeftException>(() => other.Base.AddHead("lm_head", 1)).ErrorId);
    }

    [Theory]
    [InlineData(null)]
    [InlineData(0)]
    public void Rows_of_other_lengths_are_scored_as_alone_whether_or_not_a_token_is_for_padding(int? padding)
    {
        using var model = TinyLlama.Create();
        model.Config.Document["pad_token_id"] = padding;
        var head = model.Base.AddHead("reward", 1);
        var ids = tensor(new long[,] { { 5, 6, 7, 8, 9 }, { 5, 9, 4, 0, 0 } });
        var mask = tensor(new long[,] { { 1, 1, 1, 1, 1 }, { 1, 1, 1, 0, 0 } });

        var together = Scores(ids, mask);

        Assert.True(together[0].sub(Scores(ids.narrow(0, 0, 1), null)[0]).abs().max().item<float>() < 1e-5);
        Assert.True(together[1].sub(Scores(ids.narrow(0, 1, 1).narrow(1, 0, 3), null)[0]).abs().max().item<float>() < 1e-5);

        Tensor Scores(Tensor rows, Tensor? real)
        {
            var pass = model.NewPass(new ForwardContext { AttentionMask = real });
            return head.Scores(model.Base.Forward(rows, pass), pass);
        }
    }

    private static LastTokenHead Head(Peft.Adapters.Model.PeftModel model)
    {
        model.Config.Document["pad_token_id"] = 0;
        return model.Base.AddHead("reward", 1);
    }
}
