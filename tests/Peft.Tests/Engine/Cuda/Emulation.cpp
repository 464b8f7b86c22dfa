// A GPU on a processor, for tests: the kernels' source is put behind this and compiled by a C++ compiler. Blocks run one after another; the threads of a
// block are fibers that run by turns, up to the next point where they wait for one another.
#include <csetjmp>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>
#include <ucontext.h>

#define __device__ static
#define __shared__ static
#define KERNEL(name, type) \
    static void name##_of_thread(const type& arguments); \
    extern "C" void name(const void* arguments, long long blocks, int threads) \
    { \
        const type copied = *(const type*)arguments; \
        run(blocks, threads, [&] { name##_of_thread(copied); }); \
    } \
    static void name##_of_thread(const type& arguments)

struct Index { int x; };
struct uint4 { unsigned x, y, z, w; };

static Index threadIdx, blockIdx, blockDim;

enum class State { Ready, Waiting, Finished };

// A fiber is entered once by its context; from then on jumps lead in and out, which, unlike contexts, leave the signals alone and take no call of the system.
struct Fiber
{
    ucontext_t context;
    jmp_buf inside;
    bool isEntered;
    std::unique_ptr<char[]> stack;
    State state;
};

static const size_t StackSize = 1 << 16;
static const int Warp = 32;
static std::vector<Fiber> fibers;
static std::vector<float> exchanged;
static jmp_buf outside;
static const void* work;
static void (*call)(const void*);

static void start()
{
    call(work);
    fibers[threadIdx.x].state = State::Finished;
    _longjmp(outside, 1);
}

static void leave(State state)
{
    int thread = threadIdx.x;
    fibers[thread].state = state;
    if (_setjmp(fibers[thread].inside) == 0)
    {
        _longjmp(outside, 1);
    }
}

static void enter(Fiber& fiber)
{
    if (_setjmp(outside) == 0)
    {
        if (fiber.isEntered)
        {
            _longjmp(fiber.inside, 1);
        }

        fiber.isEntered = true;
        setcontext(&fiber.context);
    }
}

template <typename F> static void run(long long blocks, int threads, F body)
{
    work = &body;
    call = [](const void* given) { (*(const F*)given)(); };
    blockDim.x = threads;
    exchanged.assign(threads, 0);
    fibers.resize(threads);
    for (long long block = 0; block < blocks; block++)
    {
        blockIdx.x = (int)block;
        for (Fiber& fiber : fibers)
        {
            if (!fiber.stack)
            {
                fiber.stack.reset(new char[StackSize]);
            }

            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = fiber.stack.get();
            fiber.context.uc_stack.ss_size = StackSize;
            fiber.context.uc_link = nullptr;
            makecontext(&fiber.context, start, 0);
            fiber.state = State::Ready;
            fiber.isEntered = false;
        }

        for (bool any = true; any;)
        {
            any = false;
            for (int thread = 0; thread < threads; thread++)
            {
                if (fibers[thread].state == State::Ready)
                {
                    any = true;
                    threadIdx.x = thread;
                    enter(fibers[thread]);
                }
            }

            if (!any)
            {
                for (Fiber& fiber : fibers)
                {
                    if (fiber.state == State::Waiting)
                    {
                        fiber.state = State::Ready;
                        any = true;
                    }
                }
            }
        }
    }
}

static void __syncthreads() { leave(State::Waiting); }

// All lanes of a warp call it at the same place: each puts its value down, and takes another's a turn later.
static float __shfl_xor_sync(unsigned, float value, int distance)
{
    exchanged[threadIdx.x] = value;
    leave(State::Ready);
    int lane = threadIdx.x % Warp;
    float other = exchanged[threadIdx.x - lane + (lane ^ distance)];
    leave(State::Ready);
    return other;
}

static float __uint_as_float(unsigned bits)
{
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

static unsigned __float_as_uint(float value)
{
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

static float __fmul_rn(float a, float b) { return a * b; }
static float __fadd_rn(float a, float b) { return a + b; }

static float half_to_float(unsigned short bits)
{
    _Float16 value;
    std::memcpy(&value, &bits, 2);
    return (float)value;
}

static unsigned short float_to_half(float value)
{
    _Float16 half = (_Float16)value;
    unsigned short bits;
    std::memcpy(&bits, &half, 2);
    return bits;
}
