using Peft.Adapters.Configuration;
using Peft.Adapters.Methods.Prompts;
using Peft.Models;
using static TorchSharp.torch;

namespace Peft.Adapters.Methods.PTuning;

/// <summary>What computes the virtual tokens.</summary>
public enum PromptNetwork
{
    /// <summary>Three linear layers.</summary>
    Mlp,

    /// <summary>A recurrence in both directions over the virtual tokens, then two linear layers.</summary>
    Lstm,
}

/// <summary>
/// P-tuning (Liu et al. 2021): virtual tokens stand in front of every row and are computed by a small network, which is trained; its result alone is saved.
/// Defaults are PEFT's.
/// </summary>
public sealed record PTuningConfig : PromptConfig
{
    /// <inheritdoc/>
    public override string PeftType => "P_TUNING";

    /// <summary>The network that computes the virtual tokens: <c>MLP</c> or <c>LSTM</c>.</summary>
    [ConfigField("encoder_reparameterization_type", Parameter = "EncoderKind", Choices = ["MLP", "LSTM"])]
    public PromptNetwork EncoderKind { get; init; }

    /// <summary>Width of the network's hidden layers; the width of a token's vector without it.</summary>
    [ConfigField("encoder_hidden_size", Minimum = 1, ErrorId = "PromptDoesNotFit")]
    public int? EncoderHiddenSize { get; init; }

    /// <summary>Layers of the LSTM. The MLP always has three.</summary>
    [ConfigField("encoder_num_layers", Parameter = "EncoderLayerCount", Minimum = 1, Maximum = 64)]
    public int EncoderLayers { get; init; } = 2;

    /// <summary>Probability with which what an LSTM's layer gives to the next is dropped in training.</summary>
    [ConfigField("encoder_dropout", Minimum = 0, Maximum = 1, IsReal = true, ErrorId = "DropoutInvalid")]
    public double EncoderDropout { get; init; }

    /// <inheritdoc/>
    public override Adapter CreateAdapter(string name) => new PTuningAdapter(name, this);

    private protected override PromptConfig Filled(PromptConfig sized)
    {
        var tuning = (PTuningConfig)sized;
        return tuning with { EncoderHiddenSize = tuning.EncoderHiddenSize ?? tuning.TokenWidth };
    }
}

/// <summary>P-tuning on a model.</summary>
public sealed class PTuningAdapter(string name, PTuningConfig config) : PromptAdapter(name, config)
{
    private protected override VirtualPrompt Prompt(Tensor values, ForwardContext pass) =>
        new(Config.VirtualTokens!.Value) { Embeddings = FirstPart(values, pass) };

    private protected override PromptEncoder CreateEncoder()
    {
        var tuning = (PTuningConfig)Config;
        return tuning.EncoderKind == PromptNetwork.Mlp ? new MlpEncoder(tuning, Table.Shape[0]) : new LstmEncoder(tuning, Table.Shape[0]);
    }
}

/// <summary>Three linear layers with rectifiers between them.</summary>
internal sealed class MlpEncoder : PromptEncoder
{
    private readonly Func<Tensor, Tensor>[] _layers;

    public MlpEncoder(PTuningConfig config, long rows)
        : base(rows, config.TokenWidth!.Value)
    {
        var (width, hidden) = (config.TokenWidth!.Value, config.EncoderHiddenSize!.Value);
        _layers = [AddLinear("mlp_head.0", width, hidden), AddLinear("mlp_head.2", hidden, hidden), AddLinear("mlp_head.4", hidden, width)];
    }

    public override Tensor Forward(ForwardContext pass) => _layers[2](_layers[1](_layers[0](Embedding).relu()).relu());
}

/// <summary>Long short-term memory in both directions (Hochreiter and Schmidhuber 1997, with forget gates), then two linear layers.</summary>
internal sealed class LstmEncoder : PromptEncoder
{
    private static readonly string[] s_directions = ["", "_reverse"];

    private readonly PTuningConfig _config;
    private readonly Cell[][] _cells;
    private readonly Func<Tensor, Tensor>[] _head;

    public LstmEncoder(PTuningConfig config, long rows)
        : base(rows, config.TokenWidth!.Value)
    {
        _config = config;
        var (width, hidden) = (config.TokenWidth!.Value, config.EncoderHiddenSize!.Value);
        var bound = 1 / Math.Sqrt(hidden);
        _cells =
        [
            .. Enumerable.Range(0, config.EncoderLayers).Select(layer => s_directions.Select(direction => new Cell(
                Add($"lstm_head.weight_ih_l{layer}{direction}", bound, 4L * hidden, layer == 0 ? width : 2L * hidden),
                Add($"lstm_head.weight_hh_l{layer}{direction}", bound, 4L * hidden, hidden),
                Add($"lstm_head.bias_ih_l{layer}{direction}", bound, 4L * hidden),
                Add($"lstm_head.bias_hh_l{layer}{direction}", bound, 4L * hidden))).ToArray()),
        ];
        _head = [AddLinear("mlp_head.0", 2L * hidden, 2L * hidden), AddLinear("mlp_head.2", 2L * hidden, width)];
    }

    public override Tensor Forward(ForwardContext pass)
    {
        var x = Embedding;
        for (var layer = 0; layer < _cells.Length; layer++)
        {
            if (layer > 0 && pass.IsTraining && _config.EncoderDropout > 0)
            {
                x = x * RandomTensors.DropoutMask(x, _config.EncoderDropout, pass.Generator);
            }

            x = cat([Run(_cells[layer][0], x, isReverse: false), Run(_cells[layer][1], x, isReverse: true)], 1);
        }

        return _head[1](_head[0](x).relu());
    }

    private static Tensor Run(Cell cell, Tensor x, bool isReverse)
    {
        var (tokens, hidden) = ((int)x.size(0), cell.State.Shape[1]);
        var fromInput = x.mm(cell.Input.Data.t()) + cell.InputBias.Data + cell.StateBias.Data;
        var outputs = new Tensor[tokens];
        var (h, c) = (zeros([1, hidden], device: x.device), zeros([1, hidden], device: x.device));
        for (var step = 0; step < tokens; step++)
        {
            var at = isReverse ? tokens - 1 - step : step;
            var gates = (fromInput.narrow(0, at, 1) + h.mm(cell.State.Data.t())).chunk(4, 1);
            c = (gates[1].sigmoid() * c) + (gates[0].sigmoid() * gates[2].tanh());
            h = gates[3].sigmoid() * c.tanh();
            outputs[at] = h;
        }

        return cat(outputs, 0);
    }

    private sealed record Cell(Parameter Input, Parameter State, Parameter InputBias, Parameter StateBias);
}
