// What stands before all other files where a GPU's compiler reads them.

#define KERNEL(name, type) extern "C" __global__ void name(const type arguments)

__device__ inline float half_to_float(unsigned short x)
{
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}

__device__ inline unsigned short float_to_half(float x)
{
    unsigned short y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
