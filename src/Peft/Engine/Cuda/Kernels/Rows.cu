// The layer norm, and what is done with each element of a row.

struct LayerNormArguments
{
    const element* x;
    const float* weight;
    const float* bias;
    element* y;
    int width;
    float epsilon;
};

// The layer norm of a row, a block each.
KERNEL(layer_norm, LayerNormArguments)
{
    __shared__ float sums[32];
    const element* x = arguments.x + (long long)blockIdx.x * arguments.width;
    element* y = arguments.y + (long long)blockIdx.x * arguments.width;
    float sum = 0;
    for (int i = threadIdx.x; i < arguments.width; i += blockDim.x)
    {
        sum += widen(x[i]);
    }

    float mean = sum_of_block(sum, sums) / arguments.width;
    float square = 0;
    for (int i = threadIdx.x; i < arguments.width; i += blockDim.x)
    {
        float centred = widen(x[i]) - mean;
        square += centred * centred;
    }

    float inverse = 1.0f / sqrtf(sum_of_block(square, sums) / arguments.width + arguments.epsilon);
    for (int i = threadIdx.x; i < arguments.width; i += blockDim.x)
    {
        float normed = (widen(x[i]) - mean) * inverse * arguments.weight[i];
        y[i] = narrow(arguments.bias ? normed + arguments.bias[i] : normed);
    }
}

struct SumArguments
{
    const element* left;
    const element* right;
    element* y;
    long long count;
    float scale;
};

// left + scale · right; without a left one scale · right.
KERNEL(add_scaled, SumArguments)
{
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < arguments.count)
    {
        float scaled = arguments.scale * widen(arguments.right[i]);
        arguments.y[i] = narrow(arguments.left ? widen(arguments.left[i]) + scaled : scaled);
    }
}

struct ActivationArguments
{
    const element* x;
    element* y;
    long long width;
    int form;
    int is_gated;
};

__device__ inline float activation(float x, int form)
{
    switch (form)
    {
        case 0: return x / (1.0f + expf(-x));
        case 1: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
        case 2: return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
        case 3: return x / (1.0f + expf(-1.702f * x));
        case 4: return x > 0 ? x : 0;
        default: return tanhf(x);
    }
}

// act(x), or act(gate) · up of gate and up side by side. The forms are those of ActivationForm.
KERNEL(activation_row, ActivationArguments)
{
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < arguments.width)
    {
        float value = activation(widen(arguments.x[i]), arguments.form);
        arguments.y[i] = narrow(arguments.is_gated ? rounded(value) * widen(arguments.x[arguments.width + i]) : value);
    }
}

struct CopyArguments
{
    const long long* stretches;
};

// Stretches of memory that are put elsewhere, (from, to, bytes) each, a block each.
KERNEL(copy_stretches, CopyArguments)
{
    const long long* stretch = arguments.stretches + 3 * (long long)blockIdx.x;
    const element* from = (const element*)stretch[0];
    element* to = (element*)stretch[1];
    long long count = stretch[2] / (long long)sizeof(element);
    for (long long i = threadIdx.x; i < count; i += blockDim.x)
    {
        to[i] = from[i];
    }
}
