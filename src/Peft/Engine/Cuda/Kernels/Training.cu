// What training computes beside products: norms, rotary positions, gated activations and cross-entropy, forwards and backwards, each in one pass or two
// over what would be many passes by operators. The norm's forward pass serves recorded steps too.

struct NormArguments
{
    const element* x;
    const element* weight;
    element* y;
    element* inverse;
    int width;
    float epsilon;
};

// w · x · r with r = 1 / sqrt(mean(x²) + ε), a block a row; r is kept where there is memory for it.
KERNEL(rms_norm, NormArguments)
{
    __shared__ float sums[32];
    const element* x = arguments.x + (long long)blockIdx.x * arguments.width;
    element* y = arguments.y + (long long)blockIdx.x * arguments.width;
    float square = 0;
    for (int i = threadIdx.x * PER_VECTOR; i < arguments.width; i += blockDim.x * PER_VECTOR)
    {
        float values[PER_VECTOR];
        load(x + i, values, count_from(i, arguments.width));
#pragma unroll
        for (int j = 0; j < PER_VECTOR; j++)
        {
            square += values[j] * values[j];
        }
    }

    float inverse = rounded(1.0f / sqrtf(sum_of_block(square, sums) / arguments.width + arguments.epsilon));
    for (int i = threadIdx.x * PER_VECTOR; i < arguments.width; i += blockDim.x * PER_VECTOR)
    {
        float values[PER_VECTOR], weights[PER_VECTOR];
        int count = count_from(i, arguments.width);
        load(x + i, values, count);
        load(arguments.weight + i, weights, count);
#pragma unroll
        for (int j = 0; j < PER_VECTOR; j++)
        {
            values[j] = rounded(values[j] * inverse) * weights[j];
        }

        store(y + i, values, count);
    }

    if (arguments.inverse && threadIdx.x == 0)
    {
        arguments.inverse[blockIdx.x] = narrow(inverse);
    }
}

struct NormGradientArguments
{
    const element* gradient;
    const element* x;
    const element* weight;
    const element* inverse;
    element* result;
    int width;
};

// r (g w) − x r³/n Σ (g w x), a block a row.
KERNEL(rms_norm_gradient, NormGradientArguments)
{
    __shared__ float sums[32];
    const element* x = arguments.x + (long long)blockIdx.x * arguments.width;
    const element* gradient = arguments.gradient + (long long)blockIdx.x * arguments.width;
    element* result = arguments.result + (long long)blockIdx.x * arguments.width;
    float along = 0;
    for (int i = threadIdx.x * PER_VECTOR; i < arguments.width; i += blockDim.x * PER_VECTOR)
    {
        float values[PER_VECTOR], weights[PER_VECTOR], gradients[PER_VECTOR];
        int count = count_from(i, arguments.width);
        load(x + i, values, count);
        load(arguments.weight + i, weights, count);
        load(gradient + i, gradients, count);
#pragma unroll
        for (int j = 0; j < PER_VECTOR; j++)
        {
            along += gradients[j] * weights[j] * values[j];
        }
    }

    float inverse = widen(arguments.inverse[blockIdx.x]);
    float factor = sum_of_block(along, sums) * inverse * inverse * inverse / arguments.width;
    for (int i = threadIdx.x * PER_VECTOR; i < arguments.width; i += blockDim.x * PER_VECTOR)
    {
        float values[PER_VECTOR], weights[PER_VECTOR], gradients[PER_VECTOR];
        int count = count_from(i, arguments.width);
        load(x + i, values, count);
        load(arguments.weight + i, weights, count);
        load(gradient + i, gradients, count);
#pragma unroll
        for (int j = 0; j < PER_VECTOR; j++)
        {
            values[j] = gradients[j] * weights[j] * inverse - values[j] * factor;
        }

        store(result + i, values, count);
    }
}

struct TurnArguments
{
    const element* x;
    element* y;
    const element* cosine;
    const element* sine;
    long long length;
    long long row_stride;
    long long position_stride;
    long long tables;
    int heads;
    int size;
    int turned;
    int is_interleaved;
    int back;
};

// Turns the heads of a position, a block each; gradients are turned back. Elements of a head beyond those that are turned stay.
KERNEL(turn, TurnArguments)
{
    long long row = blockIdx.x / arguments.length, position = blockIdx.x % arguments.length;
    const element* x = arguments.x + row * arguments.row_stride + position * arguments.position_stride;
    element* y = arguments.y + (long long)blockIdx.x * arguments.heads * arguments.size;
    long long table = (long long)blockIdx.x % arguments.tables * arguments.turned;
    int half = arguments.turned / 2;
    for (int at = threadIdx.x; at < arguments.heads * arguments.size; at += blockDim.x)
    {
        int i = at % arguments.size;
        if (i >= arguments.turned)
        {
            y[at] = x[at];
            continue;
        }

        int partner = arguments.is_interleaved ? i ^ 1 : i < half ? i + half : i - half;
        float sine = widen(arguments.sine[table + (arguments.back ? partner : i)]);
        y[at] = narrow(widen(x[at]) * widen(arguments.cosine[table + i]) + widen(x[at - i + partner]) * sine);
    }
}

struct GatedArguments
{
    element* projections;
    element* other;
    long long rows;
    long long width;
};

// Which neighbouring elements of which row a thread takes, and how many; none behind the last row.
__device__ inline int piece_of(const GatedArguments& arguments, long long& row, long long& column)
{
    long long pieces = (arguments.width + PER_VECTOR - 1) / PER_VECTOR;
    long long piece = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    row = piece / pieces;
    column = piece % pieces * PER_VECTOR;
    return row < arguments.rows ? count_from(column, arguments.width) : 0;
}

// silu(gate) · up of gate and up side by side; a thread takes neighbouring elements.
KERNEL(gated, GatedArguments)
{
    long long row, column;
    int count = piece_of(arguments, row, column);
    if (count == 0)
    {
        return;
    }

    const element* gate = arguments.projections + row * 2 * arguments.width + column;
    float gates[PER_VECTOR], ups[PER_VECTOR];
    load(gate, gates, count);
    load(gate + arguments.width, ups, count);
#pragma unroll
    for (int j = 0; j < PER_VECTOR; j++)
    {
        gates[j] = rounded(gates[j] / (1.0f + expf(-gates[j]))) * ups[j];
    }

    store(arguments.other + row * arguments.width + column, gates, count);
}

// Puts the gradients of gate and up in their place.
KERNEL(gated_gradient, GatedArguments)
{
    long long row, column;
    int count = piece_of(arguments, row, column);
    if (count == 0)
    {
        return;
    }

    element* gate = arguments.projections + row * 2 * arguments.width + column;
    float gates[PER_VECTOR], ups[PER_VECTOR], gradients[PER_VECTOR];
    load(gate, gates, count);
    load(gate + arguments.width, ups, count);
    load(arguments.other + row * arguments.width + column, gradients, count);
#pragma unroll
    for (int j = 0; j < PER_VECTOR; j++)
    {
        float sigmoid = 1.0f / (1.0f + expf(-gates[j]));
        float silu = gates[j] * sigmoid;
        float up = ups[j];
        ups[j] = gradients[j] * silu;
        gates[j] = gradients[j] * up * (sigmoid + silu - silu * sigmoid);
    }

    store(gate, gates, count);
    store(gate + arguments.width, ups, count);
}

struct CrossEntropyArguments
{
    element* logits;
    const long long* targets;
    float* losses;
    long long width;
    float scale;
    float smoothing;
    int wants_gradient;
};

// The loss of a row of logits, a block each, and the gradient of it in their place.
KERNEL(cross_entropy, CrossEntropyArguments)
{
    __shared__ float memory[32];
    element* logits = arguments.logits + (long long)blockIdx.x * arguments.width;
    long long target = arguments.targets[blockIdx.x];
    float largest = -3.0e38f, sum = 0, all = 0;
    for (long long i = (long long)threadIdx.x * PER_VECTOR; i < arguments.width; i += (long long)blockDim.x * PER_VECTOR)
    {
        float values[PER_VECTOR];
        int count = count_from(i, arguments.width);
        load(logits + i, values, count);
        float own = largest;
#pragma unroll
        for (int j = 0; j < PER_VECTOR; j++)
        {
            values[j] *= arguments.scale;
            own = j < count && values[j] > own ? values[j] : own;
        }

        sum *= expf(largest - own);
        largest = own;
#pragma unroll
        for (int j = 0; j < PER_VECTOR; j++)
        {
            sum += j < count ? expf(values[j] - largest) : 0;
            all += j < count ? values[j] : 0;
        }
    }

    float most = largest_of_block(largest, memory);
    sum = sum_of_block(sum * expf(largest - most), memory);
    float mean = arguments.smoothing > 0 ? sum_of_block(all, memory) / arguments.width : 0;
    float wanted = (1 - arguments.smoothing) * arguments.scale * widen(logits[target]) + arguments.smoothing * mean;
    if (threadIdx.x == 0)
    {
        arguments.losses[blockIdx.x] = logf(sum) + most - wanted;
    }

    if (!arguments.wants_gradient)
    {
        return;
    }

    // The target's score is read by all before one of them overwrites it.
    __syncthreads();
    float factor = arguments.scale / sum;
    float spread = arguments.scale * arguments.smoothing / arguments.width;
    for (long long i = (long long)threadIdx.x * PER_VECTOR; i < arguments.width; i += (long long)blockDim.x * PER_VECTOR)
    {
        float values[PER_VECTOR];
        int count = count_from(i, arguments.width);
        load(logits + i, values, count);
#pragma unroll
        for (int j = 0; j < PER_VECTOR; j++)
        {
            values[j] = expf(values[j] * arguments.scale - most) * factor - spread - (i + j == target ? arguments.scale * (1 - arguments.smoothing) : 0);
        }

        store(logits + i, values, count);
    }
}
