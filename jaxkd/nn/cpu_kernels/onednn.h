// The part of oneDNN's C interface, version 3, that the kernels call.
//
// Packages of the library alone bring no headers, and the C interface is stable within a major version (which is
// checked before anything here is called), so the two dozen declarations are written out. Names are the library's.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {
typedef struct dnnl_engine* dnnl_engine_t;
typedef struct dnnl_stream* dnnl_stream_t;
typedef struct dnnl_memory* dnnl_memory_t;
typedef struct dnnl_memory_desc* dnnl_memory_desc_t;
typedef struct dnnl_primitive* dnnl_primitive_t;
typedef struct dnnl_primitive_desc* dnnl_primitive_desc_t;
typedef struct dnnl_primitive_attr* dnnl_primitive_attr_t;
typedef struct dnnl_post_ops* dnnl_post_ops_t;
typedef int64_t dnnl_dims_t[12];
typedef int dnnl_status_t;

struct dnnl_exec_arg_t {
  int arg;
  dnnl_memory_t memory;
};

enum {
  dnnl_success = 0,
  dnnl_cpu = 1,
  dnnl_stream_in_order = 1,
  dnnl_bf16 = 2,
  dnnl_f32 = 3,
  dnnl_format_tag_any = 1,
  dnnl_forward_training = 64,
  dnnl_convolution_direct = 1,
  dnnl_query_weights_md = 131,
  dnnl_query_diff_weights_md = 132,
  dnnl_query_scratchpad_md = 136,
  dnnl_scratchpad_mode_user = 1,
  DNNL_ARG_SRC = 1,
  DNNL_ARG_DST = 17,
  DNNL_ARG_WEIGHTS = 33,
  DNNL_ARG_BIAS = 41,
  DNNL_ARG_SCRATCHPAD = 80,
  DNNL_ARG_DIFF_SRC = 129,
  DNNL_ARG_DIFF_DST = 145,
  DNNL_ARG_DIFF_WEIGHTS = 161,
};

dnnl_status_t dnnl_engine_create(dnnl_engine_t*, int kind, size_t index);
dnnl_status_t dnnl_stream_create(dnnl_stream_t*, dnnl_engine_t, unsigned flags);
dnnl_status_t dnnl_memory_desc_create_with_strides(dnnl_memory_desc_t*, int ndims, const dnnl_dims_t dims,
                                                   int data_type, const dnnl_dims_t strides);
dnnl_status_t dnnl_memory_desc_create_with_tag(dnnl_memory_desc_t*, int ndims, const dnnl_dims_t dims, int data_type,
                                               int tag);
dnnl_status_t dnnl_memory_desc_clone(dnnl_memory_desc_t*, const dnnl_memory_desc*);
dnnl_status_t dnnl_memory_desc_destroy(dnnl_memory_desc_t);
int dnnl_memory_desc_equal(const dnnl_memory_desc*, const dnnl_memory_desc*);
size_t dnnl_memory_desc_get_size(const dnnl_memory_desc*);
dnnl_status_t dnnl_memory_create(dnnl_memory_t*, const dnnl_memory_desc*, dnnl_engine_t, void* handle);
dnnl_status_t dnnl_memory_destroy(dnnl_memory_t);
dnnl_status_t dnnl_post_ops_create(dnnl_post_ops_t*);
dnnl_status_t dnnl_post_ops_destroy(dnnl_post_ops_t);
dnnl_status_t dnnl_post_ops_append_sum(dnnl_post_ops_t, float scale, int32_t zero_point, int data_type);
dnnl_status_t dnnl_primitive_attr_create(dnnl_primitive_attr_t*);
dnnl_status_t dnnl_primitive_attr_destroy(dnnl_primitive_attr_t);
dnnl_status_t dnnl_primitive_attr_set_post_ops(dnnl_primitive_attr_t, const dnnl_post_ops*);
dnnl_status_t dnnl_primitive_attr_set_scratchpad_mode(dnnl_primitive_attr_t, int mode);
dnnl_status_t dnnl_convolution_forward_primitive_desc_create(
    dnnl_primitive_desc_t*, dnnl_engine_t, int prop_kind, int algorithm, const dnnl_memory_desc* src,
    const dnnl_memory_desc* weights, const dnnl_memory_desc* bias, const dnnl_memory_desc* dst,
    const dnnl_dims_t strides, const dnnl_dims_t dilates, const dnnl_dims_t padding_l, const dnnl_dims_t padding_r,
    const dnnl_primitive_attr*);
dnnl_status_t dnnl_convolution_backward_data_primitive_desc_create(
    dnnl_primitive_desc_t*, dnnl_engine_t, int algorithm, const dnnl_memory_desc* diff_src,
    const dnnl_memory_desc* weights, const dnnl_memory_desc* diff_dst, const dnnl_dims_t strides,
    const dnnl_dims_t dilates, const dnnl_dims_t padding_l, const dnnl_dims_t padding_r,
    const dnnl_primitive_desc* forward, const dnnl_primitive_attr*);
dnnl_status_t dnnl_convolution_backward_weights_primitive_desc_create(
    dnnl_primitive_desc_t*, dnnl_engine_t, int algorithm, const dnnl_memory_desc* src,
    const dnnl_memory_desc* diff_weights, const dnnl_memory_desc* diff_bias, const dnnl_memory_desc* diff_dst,
    const dnnl_dims_t strides, const dnnl_dims_t dilates, const dnnl_dims_t padding_l, const dnnl_dims_t padding_r,
    const dnnl_primitive_desc* forward, const dnnl_primitive_attr*);
const dnnl_memory_desc* dnnl_primitive_desc_query_md(const dnnl_primitive_desc*, int what, int index);
dnnl_status_t dnnl_primitive_desc_destroy(dnnl_primitive_desc_t);
dnnl_status_t dnnl_primitive_create(dnnl_primitive_t*, const dnnl_primitive_desc*);
dnnl_status_t dnnl_primitive_execute(const dnnl_primitive*, dnnl_stream_t, int count, const dnnl_exec_arg_t*);
dnnl_status_t dnnl_reorder_primitive_desc_create(dnnl_primitive_desc_t*, const dnnl_memory_desc* src, dnnl_engine_t,
                                                 const dnnl_memory_desc* dst, dnnl_engine_t,
                                                 const dnnl_primitive_attr*);
// C = alpha · op(A) · op(B) + beta · C, row-major; within an OpenMP region on the calling thread.
dnnl_status_t dnnl_sgemm(char transa, char transb, int64_t M, int64_t N, int64_t K, float alpha, const float* A,
                         int64_t lda, const float* B, int64_t ldb, float beta, float* C, int64_t ldc);
}
