// Four-bit numbers in blocks, two a byte, the first in the high half; each block has a scale, which may be a byte that looks up a number and is scaled
// in turn by 256s.

struct FourBitBlocks
{
    const unsigned char* packed;
    const void* scales;
    const float* nested_scales;
    const float* scale_values;
    const float* values;
    float offset;
    int shift;
};

__device__ inline float scale_of(const FourBitBlocks& blocks, long long element_index)
{
    long long block = element_index >> blocks.shift;
    return blocks.nested_scales
        ? __fadd_rn(__fmul_rn(blocks.scale_values[((const unsigned char*)blocks.scales)[block]], blocks.nested_scales[block >> 8]), blocks.offset)
        : ((const float*)blocks.scales)[block];
}

#define ROWS_AT_ONCE 8
#define PRODUCT_WARPS 4
#define NUMBERS_OF_LANE 32

struct FourBitProductArguments
{
    const element* x;
    FourBitBlocks blocks;
    ProductTarget target;
    long long rows;
    long long width;
};

// The value of the number that begins at a bit of a word; the offset of a float is four times its index.
__device__ inline float looked_up(const float* values, unsigned word, int bit)
{
    return *(const float*)((const char*)values + ((bit < 2 ? word << 2 : word >> (bit - 2)) & 60));
}

// A block forms the sums of eight rows; each of its warps takes other columns, each lane 32 of them side by side, for all eight.
KERNEL(four_bit_product, FourBitProductArguments)
{
    __shared__ float values[16];
    __shared__ float sums_of_warps[PRODUCT_WARPS][ROWS_AT_ONCE];
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    long long first = (long long)blockIdx.x * ROWS_AT_ONCE;
    if (threadIdx.x < 16)
    {
        values[threadIdx.x] = arguments.blocks.values[threadIdx.x];
    }

    __syncthreads();
    float sums[ROWS_AT_ONCE];
#pragma unroll
    for (int r = 0; r < ROWS_AT_ONCE; r++)
    {
        sums[r] = 0;
    }

    for (long long at = (long long)threadIdx.x * NUMBERS_OF_LANE; at < arguments.width; at += PRODUCT_WARPS * WARP * NUMBERS_OF_LANE)
    {
        float x[NUMBERS_OF_LANE];
#pragma unroll
        for (int i = 0; i < NUMBERS_OF_LANE; i += PER_VECTOR)
        {
            load(arguments.x + at + i, x + i, PER_VECTOR);
        }

        uint4 bytes[ROWS_AT_ONCE];
        float scales[ROWS_AT_ONCE];
#pragma unroll
        for (int r = 0; r < ROWS_AT_ONCE; r++)
        {
            // Behind the last row it is read once more, for nothing.
            long long row = first + r < arguments.rows ? first + r : arguments.rows - 1;
            long long index = row * arguments.width + at;
            bytes[r] = *(const uint4*)(arguments.blocks.packed + index / 2);
            scales[r] = scale_of(arguments.blocks, index);
        }

#pragma unroll
        for (int r = 0; r < ROWS_AT_ONCE; r++)
        {
            const unsigned words[4] = {bytes[r].x, bytes[r].y, bytes[r].z, bytes[r].w};
            float sum = 0;
#pragma unroll
            for (int word = 0; word < 4; word++)
            {
#pragma unroll
                for (int i = 0; i < 4; i++)
                {
                    sum += looked_up(values, words[word], 8 * i + 4) * x[word * 8 + 2 * i];
                    sum += looked_up(values, words[word], 8 * i) * x[word * 8 + 2 * i + 1];
                }
            }

            sums[r] += sum * scales[r];
        }
    }

#pragma unroll
    for (int r = 0; r < ROWS_AT_ONCE; r++)
    {
        float sum = sum_of(sums[r], WARP);
        if (lane == 0)
        {
            sums_of_warps[warp][r] = sum;
        }
    }

    __syncthreads();
    if (threadIdx.x < ROWS_AT_ONCE && first + threadIdx.x < arguments.rows)
    {
        float sum = 0;
        for (int other = 0; other < PRODUCT_WARPS; other++)
        {
            sum += sums_of_warps[other][threadIdx.x];
        }

        put(arguments.target, first + threadIdx.x, sum);
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
    __shared__ float values[16];
    if (threadIdx.x < 16)
    {
        values[threadIdx.x] = arguments.blocks.values[threadIdx.x];
    }

    __syncthreads();
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
            arguments.target[i] = narrow(rounded_as(values[i & 1 ? byte & 15 : byte >> 4] * scale, arguments.stored));
        }

        return;
    }

    unsigned bytes = *(const unsigned*)(arguments.blocks.packed + start / 2);
    float result[8];
#pragma unroll
    for (int i = 0; i < 4; i++)
    {
        result[2 * i] = rounded_as(looked_up(values, bytes, 8 * i + 4) * scale, arguments.stored);
        result[2 * i + 1] = rounded_as(looked_up(values, bytes, 8 * i) * scale, arguments.stored);
    }

#pragma unroll
    for (int i = 0; i < 8; i += PER_VECTOR)
    {
        store(arguments.target + start + i, result + i, PER_VECTOR);
    }
}
