/*-------------------------------------------------------------------------
 *
 * vq_kernels_avx512_amx.c
 *	  Products of bytes, a tile of them at a time, for x86-64 processors that have
 *	  AMX-INT8 (Intel from Sapphire Rapids).
 *
 * A tile has sixteen rows of 64 bytes; TDPBUSD adds, to sixteen by sixteen sums
 * in 32 bits, the products of sixteen rows of 64 bytes with as many columns, in
 * which four bytes of a column are next to each other (Intel, Architecture
 * Instruction Set Extensions Programming Reference, chapter 3).  Panels are stored
 * that way, so that nothing is rearranged here.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_kernels.h"

#if defined(VQ_HAVE_AMX)

#include <immintrin.h>
#include <string.h>

#include "kernels/vq_kernels_avx512.h"

VQ_TARGET_BEGIN("amx-tile,amx-int8,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")

#define TILE_ROWS	16
#define TILE_BYTES	64			/* of a row */
#define TILE_QUADS	(TILE_BYTES / 4)

/* Two tiles of rows by two of columns: each is loaded once for two products */
#define TILES		2

/* Which tile is which, for instructions that want literals */
#define SUMS_00		0
#define SUMS_01		1
#define SUMS_10		2
#define SUMS_11		3
#define ROWS_0		4
#define ROWS_1		5
#define COLUMNS_0	6
#define COLUMNS_1	7

/* What LDTILECFG reads: palette 1 */
typedef struct TileShapes
{
	uint8_t		palette;
	uint8_t		start_row;
	uint8_t		reserved[14];
	uint16_t	row_bytes[16];
	uint8_t		rows[16];
} TileShapes;

/* What is left of rows and columns after whole tiles, as one more */
typedef struct Rest
{
	uint8_t		rows[TILES][TILE_ROWS][TILE_BYTES] __attribute__((aligned(64)));
	const int8_t *columns[TILES];
	int8_t		copies[TILES][TILE_QUADS][TILE_BYTES] __attribute__((aligned(64)));
} Rest;

/* Intrinsics of tiles do not tell the compiler what memory they read: all that was written to it is there from here on */
#define MEMORY_IS_WRITTEN()	__asm__ volatile("" ::: "memory")

/* All tiles for blocks of so many rows, at most TILE_ROWS */
static inline void
shape_tiles(size_t nrows)
{
	TileShapes	shapes;

	memset(&shapes, 0, sizeof(shapes));
	shapes.palette = 1;
	for (size_t t = 0; t < 8; t++)
	{
		shapes.row_bytes[t] = TILE_BYTES;
		shapes.rows[t] = t == COLUMNS_0 || t == COLUMNS_1 ? TILE_QUADS : (uint8_t) nrows;
	}
	MEMORY_IS_WRITTEN();
	_tile_loadconfig(&shapes);
}

/* Add the products of sixteen quads, of one tile or two of rows and of columns */
static inline __attribute__((always_inline)) void
add_quads(const uint8_t *rows0, const uint8_t *rows1, size_t row_stride, bool two_of_rows,
		  const int8_t *columns0, const int8_t *columns1, bool two_of_columns)
{
	_tile_loadd(COLUMNS_0, columns0, TILE_BYTES);
	_tile_loadd(ROWS_0, rows0, row_stride);
	_tile_dpbusd(SUMS_00, ROWS_0, COLUMNS_0);
	if (two_of_columns)
	{
		_tile_loadd(COLUMNS_1, columns1, TILE_BYTES);
		_tile_dpbusd(SUMS_01, ROWS_0, COLUMNS_1);
	}
	if (two_of_rows)
	{
		_tile_loadd(ROWS_1, rows1, row_stride);
		_tile_dpbusd(SUMS_10, ROWS_1, COLUMNS_0);
		if (two_of_columns)
			_tile_dpbusd(SUMS_11, ROWS_1, COLUMNS_1);
	}
}

/* A block of scores: of nrows rows from each of rows[] on, and of the panels from that on */
typedef struct Block
{
	size_t		rows[TILES];
	size_t		nrows;
	size_t		panel;
	bool		two_of_rows;
	bool		two_of_columns;
	int32_t		sums[TILES * TILES][TILE_ROWS][VQ_PANEL_COLUMNS] __attribute__((aligned(64)));
} Block;

/* The sums of a block, to its tiles */
static inline __attribute__((always_inline)) void
sum_block(const Block *block, const uint8_t *rows, const VqColumns *columns, const Rest *rest,
		  bool two_of_rows, bool two_of_columns)
{
	size_t		nquads = columns->nquads;
	size_t		row_bytes = nquads * 4;
	size_t		whole = nquads / TILE_QUADS * TILE_QUADS;
	const uint8_t *rows0 = rows + block->rows[0] * row_bytes;
	const uint8_t *rows1 = rows + block->rows[1] * row_bytes;
	const int8_t *columns0 = columns->panels + block->panel * nquads * TILE_BYTES;
	const int8_t *columns1 = columns0 + nquads * TILE_BYTES;
	const int32_t *corrections = columns->corrections + block->panel * VQ_PANEL_COLUMNS;

	/* a stride of 0: each row of the tile is the same */
	_tile_loadd(SUMS_00, corrections, 0);
	if (two_of_columns)
		_tile_loadd(SUMS_01, corrections + VQ_PANEL_COLUMNS, 0);
	if (two_of_rows)
	{
		_tile_loadd(SUMS_10, corrections, 0);
		if (two_of_columns)
			_tile_loadd(SUMS_11, corrections + VQ_PANEL_COLUMNS, 0);
	}
	for (size_t q = 0; q < whole; q += TILE_QUADS)
		add_quads(rows0 + q * 4, rows1 + q * 4, row_bytes, two_of_rows,
				  columns0 + q * TILE_BYTES, columns1 + q * TILE_BYTES, two_of_columns);
	if (whole < nquads)
		add_quads(rest->rows[0][0], rest->rows[1][0], TILE_BYTES, two_of_rows,
				  rest->columns[0], rest->columns[1], two_of_columns);
}

static inline void
store_sums(Block *block)
{
	_tile_stored(SUMS_00, block->sums[0], TILE_BYTES);
	if (block->two_of_columns)
		_tile_stored(SUMS_01, block->sums[1], TILE_BYTES);
	if (block->two_of_rows)
	{
		_tile_stored(SUMS_10, block->sums[2], TILE_BYTES);
		if (block->two_of_columns)
			_tile_stored(SUMS_11, block->sums[3], TILE_BYTES);
	}
}

/* Scores from stored sums */
static inline void
write_scores(const Block *block, const float *steps, const VqColumns *columns, float *scores)
{
	for (size_t r = 0; r <= block->two_of_rows; r++)
		for (size_t c = 0; c <= block->two_of_columns; c++)
		{
			size_t		row = block->rows[r];
			size_t		column = (block->panel + c) * VQ_PANEL_COLUMNS;
			__m512		column_steps = _mm512_loadu_ps(columns->steps + column);
			__m512		offsets = _mm512_loadu_ps(columns->offsets + column);

			for (size_t i = 0; i < block->nrows; i++)
			{
				__m512		unit = _mm512_mul_ps(_mm512_set1_ps(steps[row + i]), column_steps);
				__m512		sums = _mm512_cvtepi32_ps(_mm512_loadu_si512(block->sums[r * TILES + c][i]));

				_mm512_storeu_ps(scores + (row + i) * columns->ncolumns + column, _mm512_fmsub_ps(sums, unit, offsets));
			}
		}
}

/* The quads after the last whole tile, of nrows rows from first on: zeros behind them count for nothing */
static void
copy_rest_of_rows(const uint8_t *rows, size_t nrows, size_t first, size_t nquads, uint8_t rest[TILE_ROWS][TILE_BYTES])
{
	size_t		whole = nquads / TILE_QUADS * TILE_QUADS;
	__mmask64	mask = ((__mmask64) 1 << (nquads - whole) * 4) - 1;

	for (size_t i = 0; i < nrows; i++)
		_mm512_storeu_si512(rest[i], _mm512_maskz_loadu_epi8(mask, rows + ((first + i) * nquads + whole) * 4));
}

/*
 * The quads of a panel after its last whole tile, and anything behind them, as rows
 * have zeros there: what follows in memory, or a copy where nothing follows
 */
static const int8_t *
rest_of_columns(const VqColumns *columns, size_t panel, int8_t copy[TILE_QUADS][TILE_BYTES])
{
	size_t		nquads = columns->nquads;
	size_t		whole = nquads / TILE_QUADS * TILE_QUADS;
	size_t		first = panel * nquads + whole;
	const int8_t *rest = columns->panels + first * TILE_BYTES;

	if (first + TILE_QUADS <= columns->ncolumns / VQ_PANEL_COLUMNS * nquads)
		return rest;
	for (size_t q = 0; q < nquads - whole; q++)
		_mm512_storeu_si512(copy[q], _mm512_loadu_si512(rest + q * TILE_BYTES));
	return copy[0];
}

/*
 * Rows by pairs of sixteen, and for each pair all panels by pairs.  The last sixteen
 * rows overlap those before: that writes the same scores again.  Tiles are given back at
 * the end, as a process that holds some has them saved whenever another takes its turn.
 */
void
vq_avx512_scores_u8_amx(const uint8_t *rows, const float *steps, size_t nrows, const VqColumns *columns,
						float *scores)
{
	size_t		npanels = columns->ncolumns / VQ_PANEL_COLUMNS;
	size_t		tile_rows = nrows < TILE_ROWS ? nrows : TILE_ROWS;
	size_t		last = nrows - tile_rows;
	bool		is_rest = columns->nquads % TILE_QUADS != 0;
	Block		block;
	Rest		rest;

	if (nrows == 0 || npanels == 0)
		return;
	block.nrows = tile_rows;
	memset(rest.copies, 0, sizeof(rest.copies));
	shape_tiles(tile_rows);
	for (size_t i = 0; i < nrows; i += TILES * TILE_ROWS)
		for (size_t panel = 0; panel < npanels; panel += TILES)
		{
			block.rows[0] = i < last ? i : last;
			block.rows[1] = i + TILE_ROWS < last ? i + TILE_ROWS : last;
			block.panel = panel;
			block.two_of_rows = block.rows[1] > block.rows[0];
			block.two_of_columns = panel + 1 < npanels;
			if (is_rest)
			{
				if (panel == 0)
					for (size_t t = 0; t <= block.two_of_rows; t++)
						copy_rest_of_rows(rows, tile_rows, block.rows[t], columns->nquads, rest.rows[t]);
				for (size_t t = 0; t <= block.two_of_columns; t++)
					rest.columns[t] = rest_of_columns(columns, panel + t, rest.copies[t]);
			}
			MEMORY_IS_WRITTEN();
			if (block.two_of_rows && block.two_of_columns)
				sum_block(&block, rows, columns, &rest, true, true);
			else if (block.two_of_rows)
				sum_block(&block, rows, columns, &rest, true, false);
			else
				sum_block(&block, rows, columns, &rest, false, block.two_of_columns);
			store_sums(&block);
			write_scores(&block, steps, columns, scores);
		}
	_tile_release();
}

VQ_TARGET_END

#endif							/* VQ_HAVE_AMX */
