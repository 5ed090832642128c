// z of t and F with any degrees of freedom, as gpuvox/z_tables.py has it, operation by operation.
#pragma once

namespace {

const int X_TERMS = 8, DF_TERMS = 6;  // of a polynomial, in the place in an interval of t or F, and of its df
const int REST = 50, STEPS = 4;  // bits of a float64 number that are the place in its interval; intervals of an octave

// Polynomials (n_df, n_x, DF_TERMS, X_TERMS) by intervals of t or F, and of its degrees of freedom.
struct Table {
    const double* polynomials;
    int first_x, first_df, n_x, n_df;
    double least;
};

// The place of a float64 number > 0 in its interval.
DEVICE double place_of(int64 bits) {
    const int64 one = 1;
    union { int64 i; double d; } number;
    number.i = (bits & ((one << REST) - 1)) | (one * 1023 << 52);
    return (number.d - 1.0) * STEPS;
}

DEVICE double tabulated(const Table& table, double x, double df) {
    const int64 x_bits = double_bits(x), df_bits = double_bits(df);
    int row = (int)(df_bits >> REST) - table.first_df, column = (int)(x_bits >> REST) - table.first_x + 1;
    double e = place_of(df_bits), d = place_of(x_bits);
    if (row < 0) {
        row = 0;
        e = 0.0;
    } else if (row >= table.n_df) {
        row = table.n_df - 1;
        e = 1.0;
    }
    if (column < 1) {
        column = 0;
        d = x * (1.0 / table.least);
    } else if (column >= table.n_x) {
        column = table.n_x - 1;
        d = 1.0;
    }
    const double* c = table.polynomials + ((int64)row * table.n_x + column) * (DF_TERMS * X_TERMS);
    const double fourth = (d * d) * (d * d);
    double power[X_TERMS];
#pragma unroll
    for (int i = 0; i < X_TERMS; ++i) {
        power[i] = c[i];
#pragma unroll
        for (int k = 1; k < DF_TERMS; ++k) power[i] = fma(power[i], e, c[k * X_TERMS + i]);
    }
#pragma unroll
    for (int i = 0; i < X_TERMS / 2; ++i) power[i] = fma(power[i], fourth, power[i + X_TERMS / 2]);
    double value = power[0];
#pragma unroll
    for (int i = 1; i < X_TERMS / 2; ++i) value = fma(value, d, power[i]);
    return value;
}

}  // namespace
