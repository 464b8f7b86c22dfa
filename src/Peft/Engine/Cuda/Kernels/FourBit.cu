// Four-bit numbers in blocks, two a byte, the first in the high half; each block has a scale, which may be a byte that looks up a number and is scaled
// in turn by 256s.

struct FourBitBlocks
{
    const unsigned char* packed;
    const void* scales;
    const float* nested_scales;
    const float* scale_values;
    float offset;
    int shift;
    float values[16];
};

__device__ inline float scale_of(const FourBitBlocks& blocks, long long element_index)
{
    long long block = element_index >> blocks.shift;
    return blocks.nested_scales
        ? __fadd_rn(__fmul_rn(blocks.scale_values[((const unsigned char*)blocks.scales)[block]], blocks.nested_scales[block >> 8]), blocks.offset)
        : ((const float*)blocks.scales)[block];
}

#define CHUNK 4096
#define ROWS_AT_ONCE 2

struct FourBitProductArguments
{
    const element* x;
    FourBitBlocks blocks;
    ProductTarget target;
    long long rows;
    long long width;
};

// A warp forms two rows' sums. The input lies in shared memory so that the lanes, each with 32 numbers side by side, read neighbouring banks.
KERNEL(four_bit_product, FourBitProductArguments)
{
    __shared__ float x[CHUNK];
    __shared__ float values[16];
    int lane = threadIdx.x % WARP;
    long long first = ((long long)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP) * ROWS_AT_ONCE;
    float sums[ROWS_AT_ONCE] = {0, 0};
    if (threadIdx.x < 16)
    {
        values[threadIdx.x] = arguments.blocks.values[threadIdx.x];
    }

    for (long long start = 0; start < arguments.width; start += CHUNK)
    {
        int count = arguments.width - start < CHUNK ? (int)(arguments.width - start) : CHUNK;
        __syncthreads();
        for (int i = threadIdx.x; i < count; i += blockDim.x)
        {
            x[(i & ~1023) + (i & 31) * WARP + ((i & 1023) >> 5)] = widen(arguments.x[start + i]);
        }

        __syncthreads();
        for (int at = lane * 32; at < count; at += 1024)
        {
            const float* own = x + (at & ~1023) + lane;
#pragma unroll
            for (int r = 0; r < ROWS_AT_ONCE; r++)
            {
                if (first + r >= arguments.rows)
                {
                    continue;
                }

                long long index = (first + r) * arguments.width + start + at;
                uint4 bytes = *(const uint4*)(arguments.blocks.packed + index / 2);
                const unsigned words[4] = {bytes.x, bytes.y, bytes.z, bytes.w};
                float sum = 0;
#pragma unroll
                for (int word = 0; word < 4; word++)
                {
#pragma unroll
                    for (int i = 0; i < 4; i++)
                    {
                        unsigned two = words[word] >> (8 * i);
                        sum += values[(two >> 4) & 15] * own[(word * 8 + i * 2) * WARP];
                        sum += values[two & 15] * own[(word * 8 + i * 2 + 1) * WARP];
                    }
                }

                sums[r] += sum * scale_of(arguments.blocks, index);
            }
        }
    }

    for (int r = 0; r < ROWS_AT_ONCE; r++)
    {
        float sum = sum_of(sums[r], WARP);
        if (lane == 0 && first + r < arguments.rows)
        {
            put(arguments.target, first + r, sum);
        }
    }
}

struct FourBitUnpackArguments
{
    FourBitBlocks blocks;
    element* target;
    long long count;
    int stored;
};

// The type of the weight before it was quantised: values are rounded to it first. 0 stands for float32.
__device__ inline float rounded_as(float x, int stored)
{
    if (stored == 1)
    {
        unsigned bits = __float_as_uint(x);
        return x != x ? x : __uint_as_float((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000);
    }

    return stored == 2 ? half_to_float(float_to_half(x)) : x;
}

// Eight numbers a thread.
KERNEL(four_bit_unpack, FourBitUnpackArguments)
{
    long long start = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (start >= arguments.count)
    {
        return;
    }

    float scale = scale_of(arguments.blocks, start);
    if (start + 8 > arguments.count)
    {
        for (long long i = start; i < arguments.count; i++)
        {
            unsigned byte = arguments.blocks.packed[i / 2];
            arguments.target[i] = narrow(rounded_as(arguments.blocks.values[i & 1 ? byte & 15 : byte >> 4] * scale, arguments.stored));
        }

        return;
    }

    unsigned bytes = *(const unsigned*)(arguments.blocks.packed + start / 2);
    element result[8];
#pragma unroll
    for (int i = 0; i < 4; i++)
    {
        unsigned two = bytes >> (8 * i);
        result[2 * i] = narrow(rounded_as(arguments.blocks.values[(two >> 4) & 15] * scale, arguments.stored));
        result[2 * i + 1] = narrow(rounded_as(arguments.blocks.values[two & 15] * scale, arguments.stored));
    }

    if (is_aligned(arguments.target + start, 0))
    {
        for (int i = 0; i < 8; i += PER_VECTOR)
        {
            *(uint4*)(arguments.target + start + i) = *(const uint4*)(result + i);
        }
    }
    else
    {
        for (int i = 0; i < 8; i++)
        {
            arguments.target[start + i] = result[i];
        }
    }
}
