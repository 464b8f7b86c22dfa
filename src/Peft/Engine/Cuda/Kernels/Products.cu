// Products of one row with weights, y = x Wᵀ + b + residual, rounded after each sum as the engine's operators round.

struct ProductTarget
{
    element* y;
    const element* bias;
    const element* residual;
};

__device__ inline void put(const ProductTarget& target, long long column, float sum)
{
    if (target.bias)
    {
        sum = rounded(sum) + widen(target.bias[column]);
    }

    if (target.residual)
    {
        sum = rounded(sum) + widen(target.residual[column]);
    }

    target.y[column] = narrow(sum);
}

struct RowProductArguments
{
    const element* x;
    const element* weight;
    ProductTarget target;
    long long rows;
    long long width;
    int lanes;
};

// Weights that lie row by row, [rows, width]: a warp or a whole block (lanes) for a row.
KERNEL(row_product, RowProductArguments)
{
    __shared__ float sums[32];
    int lane = threadIdx.x % arguments.lanes;
    long long row = (long long)blockIdx.x * (blockDim.x / arguments.lanes) + threadIdx.x / arguments.lanes;
    bool acts = row < arguments.rows;
    float sum = acts ? dot(arguments.weight + row * arguments.width, arguments.x, arguments.width, lane, arguments.lanes) : 0;
    sum = arguments.lanes == WARP ? sum_of(sum, WARP) : sum_of_block(sum, sums);
    if (acts && lane == 0)
    {
        put(arguments.target, row, sum);
    }
}

struct ColumnProductArguments
{
    const element* x;
    const element* weight;
    ProductTarget target;
    long long height;
    long long columns;
};

// Weights that lie column by column, [height, columns]: 32 columns a block, each warp some of the rows.
KERNEL(column_product, ColumnProductArguments)
{
    __shared__ float sums[8][WARP];
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    long long column = (long long)blockIdx.x * WARP + lane;
    float sum = 0;
    if (column < arguments.columns)
    {
        for (long long row = warp; row < arguments.height; row += 8)
        {
            sum += widen(arguments.x[row]) * widen(arguments.weight[row * arguments.columns + column]);
        }
    }

    sums[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && column < arguments.columns)
    {
        for (int other = 1; other < 8; other++)
        {
            sum += sums[other][lane];
        }

        put(arguments.target, column, sum);
    }
}

#define MOST_TERMS 8

struct LowRankTerm
{
    const element* b;
    long long column;
    long long width;
    long long rank_start;
    long long rank;
    float scale;
};

struct LowRankArguments
{
    const element* inner;
    element* y;
    long long columns;
    int terms;
    LowRankTerm term[MOST_TERMS];
};

// What low-rank changes add: y[columns] += scale · B h, a thread a column.
KERNEL(low_rank, LowRankArguments)
{
    long long column = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= arguments.columns)
    {
        return;
    }

    float y = widen(arguments.y[column]);

    // Unrolled, so that no thread has to copy its parameters in order to index them.
#pragma unroll
    for (int i = 0; i < MOST_TERMS; i++)
    {
        const LowRankTerm& term = arguments.term[i];
        long long row = column - term.column;
        if (i < arguments.terms && row >= 0 && row < term.width)
        {
            y = rounded(y + term.scale * dot(term.b + row * term.rank, arguments.inner + term.rank_start, term.rank, 0, 1));
        }
    }

    arguments.y[column] = narrow(y);
}
