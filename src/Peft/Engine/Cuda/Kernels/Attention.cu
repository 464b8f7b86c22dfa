// Attention of one token over a cache.

struct Rotation
{
    const element* cosine;
    const element* sine;
    int size;
    int is_interleaved;
};

struct RotateArguments
{
    const element* queries;
    const element* keys;
    const element* values;
    element* turned;
    element* stored_keys;
    element* stored_values;
    Rotation rotation;
    long long capacity;
    long long position;
    int heads;
    int key_size;
    int value_size;
    float scale;
};

// An element of a head, turned: x · cos + partner(x) · sin, where the sine of the first of a pair is negated in the table.
__device__ inline float turned(const element* x, int i, const Rotation& rotation)
{
    if (i >= rotation.size)
    {
        return widen(x[i]);
    }

    int half = rotation.size / 2;
    int partner = rotation.is_interleaved ? i ^ 1 : i < half ? i + half : i - half;
    return rounded(widen(x[i]) * widen(rotation.cosine[i]) + widen(x[partner]) * widen(rotation.sine[i]));
}

// Turns queries and keys, scales queries, and puts keys and values into the cache: a block a head, those of queries first.
KERNEL(rotate, RotateArguments)
{
    int head = blockIdx.x;
    if (head < arguments.heads)
    {
        const element* query = arguments.queries + (long long)head * arguments.key_size;
        for (int i = threadIdx.x; i < arguments.key_size; i += blockDim.x)
        {
            arguments.turned[(long long)head * arguments.key_size + i] = narrow(turned(query, i, arguments.rotation) * arguments.scale);
        }

        return;
    }

    head -= arguments.heads;
    long long row = head * arguments.capacity + arguments.position;
    const element* key = arguments.keys + (long long)head * arguments.key_size;
    for (int i = threadIdx.x; i < arguments.key_size; i += blockDim.x)
    {
        arguments.stored_keys[row * arguments.key_size + i] = narrow(turned(key, i, arguments.rotation));
    }

    for (int i = threadIdx.x; i < arguments.value_size; i += blockDim.x)
    {
        arguments.stored_values[row * arguments.value_size + i] = arguments.values[(long long)head * arguments.value_size + i];
    }
}

#define MOST_SIZE 256
#define ATTENTION_WARPS 8
#define KEYS_AT_ONCE 1024
#define LANES_A_KEY 8
#define HIDDEN -3.0e38f

struct AttendArguments
{
    const element* queries;
    const element* keys;
    const element* values;
    element* output;
    const element* bias;
    const unsigned char* mask;
    long long capacity;
    long long bias_keys;
    int first;
    int count;
    int masked;
    int group;
    int key_size;
    int value_size;
};

__device__ inline float score_of(const AttendArguments& arguments, const element* key, const float* query, int lane)
{
    float sum = 0;
    if (is_aligned(key, 0) && arguments.key_size % PER_VECTOR == 0)
    {
        for (int at = lane * PER_VECTOR; at < arguments.key_size; at += LANES_A_KEY * PER_VECTOR)
        {
            float values[PER_VECTOR];
            spread(*(const uint4*)(key + at), values);
#pragma unroll
            for (int i = 0; i < PER_VECTOR; i++)
            {
                sum += values[i] * query[at + i];
            }
        }
    }
    else
    {
        for (int at = lane; at < arguments.key_size; at += LANES_A_KEY)
        {
            sum += widen(key[at]) * query[at];
        }
    }

    return sum_of(sum, LANES_A_KEY);
}

// softmax(q Kᵀ) V of a head, a block each. Keys come in chunks; what was summed before is scaled to each chunk's largest score.
KERNEL(attend, AttendArguments)
{
    __shared__ float query[MOST_SIZE];
    __shared__ float scores[KEYS_AT_ONCE];
    __shared__ float shared_sums[ATTENTION_WARPS][MOST_SIZE];
    __shared__ float across[32];
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    long long start = (long long)(blockIdx.x / arguments.group) * arguments.capacity + arguments.first;
    const element* keys = arguments.keys + start * arguments.key_size;
    const element* values = arguments.values + start * arguments.value_size;
    for (int i = threadIdx.x; i < arguments.key_size; i += blockDim.x)
    {
        query[i] = widen(arguments.queries[(long long)blockIdx.x * arguments.key_size + i]);
    }

    float sums[MOST_SIZE / WARP];
#pragma unroll
    for (int i = 0; i < MOST_SIZE / WARP; i++)
    {
        sums[i] = 0;
    }

    float largest = HIDDEN, total = 0;
    __syncthreads();
    for (int chunk = 0; chunk < arguments.count; chunk += KEYS_AT_ONCE)
    {
        int count = arguments.count - chunk < KEYS_AT_ONCE ? arguments.count - chunk : KEYS_AT_ONCE;
        const int at_once = WARP / LANES_A_KEY;
        for (int base = warp * at_once; base < count; base += ATTENTION_WARPS * at_once)
        {
            int key = base + lane / LANES_A_KEY;
            int seen = key < count ? key : count - 1;
            float score = score_of(arguments, keys + (long long)(chunk + seen) * arguments.key_size, query, lane % LANES_A_KEY);
            if (lane % LANES_A_KEY == 0 && key < count)
            {
                int position = chunk + key;
                score = arguments.bias ? score + widen(arguments.bias[blockIdx.x * arguments.bias_keys + arguments.first + position]) : score;
                int hidden = position - (arguments.count - arguments.masked);
                scores[key] = arguments.mask && hidden >= 0 && arguments.mask[hidden] ? HIDDEN : score;
            }
        }

        __syncthreads();
        float own = HIDDEN;
        for (int key = threadIdx.x; key < count; key += blockDim.x)
        {
            own = scores[key] > own ? scores[key] : own;
        }

        float now = largest_of_block(own, across);
        now = now > largest ? now : largest;
        float factor = expf(largest - now);
        largest = now;
        float part = 0;
        for (int key = threadIdx.x; key < count; key += blockDim.x)
        {
            scores[key] = expf(scores[key] - now);
            part += scores[key];
        }

        total = total * factor + sum_of_block(part, across);
#pragma unroll
        for (int i = 0; i < MOST_SIZE / WARP; i++)
        {
            int column = lane + i * WARP;
            if (column < arguments.value_size)
            {
                const element* value = values + (long long)chunk * arguments.value_size + column;
                float sum = sums[i] * factor;
#pragma unroll 4
                for (int key = warp; key < count; key += ATTENTION_WARPS)
                {
                    sum += scores[key] * widen(value[(long long)key * arguments.value_size]);
                }

                sums[i] = sum;
            }
        }

        __syncthreads();
    }

#pragma unroll
    for (int i = 0; i < MOST_SIZE / WARP; i++)
    {
        shared_sums[warp][lane + i * WARP] = sums[i];
    }

    __syncthreads();
    for (int i = threadIdx.x; i < arguments.value_size; i += blockDim.x)
    {
        float sum = 0;
        for (int other = 0; other < ATTENTION_WARPS; other++)
        {
            sum += shared_sums[other][i];
        }

        arguments.output[(long long)blockIdx.x * arguments.value_size + i] = narrow(sum / total);
    }
}
