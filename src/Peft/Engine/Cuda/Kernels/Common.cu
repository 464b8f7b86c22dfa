// What all kernels share: elements of a tensor's type, sums over threads, sixteen bytes at once. Compiled when a GPU is first used, once for each type
// of elements (ELEMENT: 0 float32, 1 bfloat16, 2 float16), without any header. Values are computed in float32 and rounded where they are stored.

#define WARP 32

#if ELEMENT == 0
typedef float element;
__device__ inline float widen(element x) { return x; }
__device__ inline element narrow(float x) { return x; }
#elif ELEMENT == 1
typedef unsigned short element;
__device__ inline float widen(element x) { return __uint_as_float((unsigned)x << 16); }
__device__ inline element narrow(float x)
{
    unsigned bits = __float_as_uint(x);
    return x != x ? 0x7FC0 : (element)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}
#else
typedef unsigned short element;
__device__ inline float widen(element x) { return half_to_float(x); }
__device__ inline element narrow(float x) { return float_to_half(x); }
#endif

#define PER_VECTOR (16 / (int)sizeof(element))

// A value as it is when it was stored.
__device__ inline float rounded(float x) { return widen(narrow(x)); }

__device__ inline bool is_aligned(const void* a, const void* b) { return (((unsigned long long)a | (unsigned long long)b) & 15) == 0; }

// The elements in sixteen bytes.
__device__ inline void spread(uint4 bits, float* to)
{
    const unsigned words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; i++)
    {
#if ELEMENT == 0
        to[i] = __uint_as_float(words[i]);
#else
        to[2 * i] = widen((element)(words[i] & 0xFFFF));
        to[2 * i + 1] = widen((element)(words[i] >> 16));
#endif
    }
}

// Some neighbouring elements, as many as sixteen bytes hold, or fewer at the end of a row.
__device__ inline void load(const element* from, float* to, int count)
{
    if (count == PER_VECTOR && is_aligned(from, 0))
    {
        spread(*(const uint4*)from, to);
        return;
    }

#pragma unroll
    for (int i = 0; i < PER_VECTOR; i++)
    {
        to[i] = i < count ? widen(from[i]) : 0;
    }
}

__device__ inline void store(element* to, const float* from, int count)
{
    if (count == PER_VECTOR && is_aligned(to, 0))
    {
        unsigned words[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
        {
#if ELEMENT == 0
            words[i] = __float_as_uint(from[i]);
#else
            words[i] = narrow(from[2 * i]) | (unsigned)narrow(from[2 * i + 1]) << 16;
#endif
        }

        *(uint4*)to = uint4{words[0], words[1], words[2], words[3]};
        return;
    }

#pragma unroll
    for (int i = 0; i < PER_VECTOR; i++)
    {
        if (i < count)
        {
            to[i] = narrow(from[i]);
        }
    }
}

__device__ inline int count_from(long long start, long long width) { return width - start < PER_VECTOR ? (int)(width - start) : PER_VECTOR; }

// The products of the elements in two times sixteen bytes, added.
__device__ inline float multiply(uint4 a, uint4 b)
{
    float left[PER_VECTOR], right[PER_VECTOR];
    spread(a, left);
    spread(b, right);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < PER_VECTOR; i++)
    {
        sum += left[i] * right[i];
    }

    return sum;
}

// The part of a dot product that one of several threads forms.
__device__ inline float dot(const element* a, const element* b, long long width, int thread, int threads)
{
    float sum = 0;
    long long vectors = is_aligned(a, b) ? width / PER_VECTOR : 0;
    const uint4* left = (const uint4*)a;
    const uint4* right = (const uint4*)b;
    long long i = thread;
    for (; i + 3 * threads < vectors; i += 4 * threads)
    {
        uint4 one = left[i], two = left[i + threads], three = left[i + 2 * threads], four = left[i + 3 * threads];
        sum += multiply(one, right[i]);
        sum += multiply(two, right[i + threads]);
        sum += multiply(three, right[i + 2 * threads]);
        sum += multiply(four, right[i + 3 * threads]);
    }

    for (; i < vectors; i += threads)
    {
        sum += multiply(left[i], right[i]);
    }

    for (i = vectors * PER_VECTOR + thread; i < width; i += threads)
    {
        sum += widen(a[i]) * widen(b[i]);
    }

    return sum;
}

// The sum over some neighbouring lanes (a power of two), for each of them.
__device__ inline float sum_of(float value, int lanes)
{
    for (int distance = lanes / 2; distance > 0; distance /= 2)
    {
        value += __shfl_xor_sync(0xFFFFFFFF, value, distance);
    }

    return value;
}

__device__ inline float largest_of_warp(float value)
{
    for (int distance = WARP / 2; distance > 0; distance /= 2)
    {
        float other = __shfl_xor_sync(0xFFFFFFFF, value, distance);
        value = other > value ? other : value;
    }

    return value;
}

// The sum over a block, for all its threads. The memory holds as many numbers as there are warps, and may be used again at once.
__device__ inline float sum_of_block(float value, float* memory)
{
    int warps = (blockDim.x + WARP - 1) / WARP;
    value = sum_of(value, WARP);
    if (threadIdx.x % WARP == 0)
    {
        memory[threadIdx.x / WARP] = value;
    }

    __syncthreads();
    float sum = 0;
    for (int warp = 0; warp < warps; warp++)
    {
        sum += memory[warp];
    }

    __syncthreads();
    return sum;
}

__device__ inline float largest_of_block(float value, float* memory)
{
    int warps = (blockDim.x + WARP - 1) / WARP;
    value = largest_of_warp(value);
    if (threadIdx.x % WARP == 0)
    {
        memory[threadIdx.x / WARP] = value;
    }

    __syncthreads();
    float largest = memory[0];
    for (int warp = 1; warp < warps; warp++)
    {
        largest = memory[warp] > largest ? memory[warp] : largest;
    }

    __syncthreads();
    return largest;
}
