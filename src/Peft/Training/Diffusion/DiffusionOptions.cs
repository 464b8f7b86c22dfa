namespace Peft.Training.Diffusion;

/// <summary>How a diffusion model learns from images, by the names that diffusers' training scripts use (<c>objective_args</c>).</summary>
public sealed record DiffusionOptions
{
    /// <summary>Side of the square whose pixels an image has at most (<c>resolution</c>); null for the model's own.</summary>
    public int? Resolution { get; init; }

    /// <summary>Whether every image is cut to a square (<c>center_crop</c>). Otherwise images keep their shape, roughly, and those of one shape share batches.</summary>
    public bool CenterCrop { get; init; }

    /// <summary>Whether images are mirrored at random (<c>random_flip</c>).</summary>
    public bool RandomFlip { get; init; }

    /// <summary>Noise that is the same over a channel of an image, which lets a model learn very dark and bright ones (<c>noise_offset</c>); 0.05 to 0.1 is usual, 0 is off.</summary>
    public double NoiseOffset { get; init; }

    /// <summary>Weighs timesteps by min-SNR with this limit (<c>snr_gamma</c>); 5 is usual, null for equal weights.</summary>
    public double? SnrGamma { get; init; }

    /// <summary>Weight of images that keep the class as it is (<c>prior_loss_weight</c>).</summary>
    public double PriorLossWeight { get; init; } = 1;

    /// <summary>Share of images that are learnt without their caption (<c>caption_dropout</c>), which guidance needs where a model is trained from nothing.</summary>
    public double CaptionDropout { get; init; }

    /// <summary>Reads the options.</summary>
    /// <exception cref="PeftException"><c>TrainingOptionInvalid</c>.</exception>
    internal static DiffusionOptions Of(NamedOptions options)
    {
        var usual = new DiffusionOptions();
        var read = new DiffusionOptions
        {
            Resolution = options.Integer("resolution"),
            CenterCrop = options.Flag("center_crop") ?? usual.CenterCrop,
            RandomFlip = options.Flag("random_flip") ?? usual.RandomFlip,
            NoiseOffset = options.Number("noise_offset") ?? usual.NoiseOffset,
            SnrGamma = options.Number("snr_gamma"),
            PriorLossWeight = options.Number("prior_loss_weight") ?? usual.PriorLossWeight,
            CaptionDropout = options.Number("caption_dropout") ?? usual.CaptionDropout,
        };
        options.Require(read.Resolution is null or > 0, "resolution", "a number of pixels");
        options.Require(read.SnrGamma is null or > 0, "snr_gamma", "above 0");
        options.Require(read.PriorLossWeight >= 0, "prior_loss_weight", "0 or more");
        options.Require(read.CaptionDropout is >= 0 and < 1, "caption_dropout", "from 0 to below 1");
        return read;
    }
}
