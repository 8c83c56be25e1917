// SPDX-License-Identifier: Apache-2.0
// math: the chunk form of the recurrence. This file is its derivation; the loops are in backend/.
//
// Notation. One head, one chunk of C tokens; q, k, v are the rows of Q, K [C, K] and V [C, V] after
// the unit-key scaling of math/unit_key.h, b their steps; S [K, V] enters the chunk, S+ leaves it.
//   G_i = g_0 + ... + g_i     gamma_i = exp(G_i)     D_ij = exp(G_i - G_j) for i >= j, else 0
//   gamma_C = gamma of the last token      w_i = exp(G_last - G_i)      s = scale
// Row vectors such as b multiply row by row: b X is diag(b) X. * is the product element by element.
//
// Forward. Write the state after token i as S_i = gamma_i S + sum_{j<=i} D_ij k_j v'_j^T, which
// defines the pseudo-values v'. The recurrence gives
//   v'_i = b_i (v_i - gamma_i S^T k_i - sum_{j<i} D_ij (k_i.k_j) v'_j),
// or, for the whole chunk,
//   A  = StrictLower(b (K K^T * D))            [C, C]
//   V' = (I + A)^-1 b (V - gamma (K S))        [C, V]
//   P  = s Lower(Q K^T * D)                    [C, C]   with the diagonal
//   O  = s gamma (Q S) + P V'                  [C, V]
//   S+ = gamma_C S + (w K)^T V'                [K, V]
// T = (I + A)^-1 exists for all inputs, A being strictly lower. Equivalently V' = U - W S with
// U = T b V and W = T b gamma K, which prepares chunks independently at the cost of T K.
//
// Backward, chunks in reverse, from dO [C, V] and dS+ [K, V]:
//   dV' = P^T dO + w (K dS+)                   dW = -dV' S^T                 F = w (V' dS+^T)
//   X   = s (dO V'^T * D)                      I_q = s gamma (dO S^T)        dQ = I_q + X K
//   T_u = T^T dV'     T_w = T^T dW             dV = b T_u
//   dA  = -StrictLower(T^T (dV' (b V)^T + dW (b gamma K)^T) T^T)
//   M   = dA * D                               dK = X^T Q + F + b gamma T_w + b (M K) + M^T (b K)
//   db  = <T_u, V> + gamma <T_w, K> + <M K, K>                               (<.,.> row by row)
//   dG  = b gamma <T_w, K> + rowsum(dA * A) - colsum(dA * A)
//         + rowsum(dO V'^T * P) - colsum(dO V'^T * P) + <I_q, Q> - <F, K>
//   dG_last += sum <F, K> + gamma_C <S, dS+>   dg = reverse cumulative sum of dG inside the chunk
//   dS  = gamma_C dS+ + s Q^T (gamma dO) - W^T dV'
//
// The form that backends compute needs neither W nor dW. With Z = T^T dV' [C, V] and E = V - gamma
// (K S):
//   T_u = Z       T_w = -Z S^T                 W^T dV' = (b gamma K)^T Z
//   dA  = -StrictLower(Z V'^T)                 since T b V - W S = V'
//   db  = <Z, E> + <M K, K>                    b gamma <T_w, K> = -b gamma <Z, K S>
//   dS  = gamma_C dS+ + s Q^T (gamma dO) - (b gamma K)^T Z
//
// dg cancels under strong decay: dG sums terms that a reverse cumulative sum subtracts again. Each
// term carries its own factor D, gamma or w <= 1, so no term exceeds the gradient's scale; the sums
// are nevertheless taken in Wide.
#ifndef KLA_MATH_CHUNK_FORM_H_
#define KLA_MATH_CHUNK_FORM_H_

#include "kla/math/decay.h"
#include "kla/math/unit_key.h"

#endif  // KLA_MATH_CHUNK_FORM_H_
