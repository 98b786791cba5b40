// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Storage that answers at once and keeps nothing: what the rings cost, and nothing else.
